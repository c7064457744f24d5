"""A stand-in for the Hub: what huggingface_hub asks of its HTTP endpoint, served from a folder of models.

`with Hub(folder) as hub:` serves `folder/ORG/NAME/...` as the model ORG/NAME; clients reach it with HF_ENDPOINT set to
`hub.url`. Switches make a model gated, slow, or break off in the middle of a file.
"""

import hashlib
import json
import re
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants, file_download

from tokenyard.broker.errors import SetupError
from tokenyard.broker.gguf_file import read_header

CHUNK = 16 << 10
LARGE = (".safetensors", ".bin", ".gguf")
"""Kept with Git LFS on the Hub: their ETag is a SHA-256, and a link's."""
TOKEN = "hf_of_somebody"
"""Opens gated models."""


def point_at(hub: "Hub", cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process use it, with a cache of its own; processes that it starts, too."""
    for name, value in (("HF_ENDPOINT", hub.url), ("HF_HUB_CACHE", str(cache)), ("HF_HUB_DISABLE_TELEMETRY", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # Read at import, long ago.
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # It waits a second before each of five tries to go on with a file.
    monkeypatch.setattr(file_download, "time", SimpleNamespace(time=time.time, sleep=lambda seconds: None))


class Repo:
    """One model: its folder, the commit that it is at, and how it is served."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gated = False
        self.bytes_per_s: float | None = None
        """Of each file that is sent; None: as fast as it goes."""
        self.break_after: int | None = None
        """Bytes of a large file after which the connection is cut, each time; None: never."""
        self.wait_s = 0.0
        """Before each answer."""
        self.num_gguf_parameters = 0
        """What is told of GGUF files instead of the truth."""
        self.claims: dict[str, int] = {}
        """Sizes of files that are told instead of the true ones."""
        self.branches = {"main": self.commit}

    @property
    def commit(self) -> str:
        """Changes with every file."""
        whole = "".join(f"{name}{self.etag(name)}" for name in self.names())
        return hashlib.sha1(whole.encode()).hexdigest()

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def etag(self, name: str) -> str:
        content = (self.folder / name).read_bytes()
        if name.endswith(LARGE):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def resolve(self, revision: str) -> str | None:
        commit = self.commit
        self.branches["main"] = commit
        return self.branches.get(revision) or (revision if revision == commit else None)

    def file(self, name: str) -> dict[str, Any]:
        """As /tree lists it."""
        size, etag = self.claims.get(name, (self.folder / name).stat().st_size), self.etag(name)
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": etag[:40]}
        return entry | ({"lfs": {"oid": etag, "size": size, "pointerSize": 134}} if name.endswith(LARGE) else {})

    def info(self, model: str) -> dict[str, Any]:
        """As /api/models/ORG/NAME?blobs=true tells."""
        siblings = [
            {"rfilename": one["path"], "size": one["size"], "blobId": one["oid"]}
            for one in map(self.file, self.names())
        ]
        told: dict[str, Any] = {"id": model, "modelId": model, "sha": self.commit, "private": False}
        told |= {"gated": "manual" if self.gated else False, "siblings": siblings}
        for path in sorted(self.folder.glob("*.gguf"))[:1]:
            with suppress(SetupError):
                told["gguf"] = {"total": self.num_gguf_parameters or read_header(path).num_parameters}
        return told


class Hub:
    """The server, in a thread of this process."""

    def __init__(self, folder: Path) -> None:
        self.repos = {
            f"{path.parent.name}/{path.name}": Repo(path) for path in sorted(folder.glob("*/*")) if path.is_dir()
        }
        self.down = False
        """Answer 503 to everything."""
        self.requests: list[str] = []
        """METHOD and path of each."""
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fetched(self, name: str) -> int:
        """How often a file was sent."""
        return sum(line.startswith("GET") and line.endswith(f"/{name}") for line in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.owner.requests.append(f"{self.command} {path}")
        if self.owner.down:
            return self._json({"error": "down"}, 503)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|auth-check)(?:/([^/]+)(?:/(.+))?)?)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        if found is None:
            return self._json({"error": "no such page"}, 404)
        model, repo = found[1], self.owner.repos.get(found[1])
        if repo is None:
            return self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
        time.sleep(repo.wait_s)
        asks_access = file is not None or (api is not None and api[2] == "auth-check")
        if repo.gated and asks_access and self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "gated"}, 403, {"X-Error-Code": "GatedRepo"})
        if api is not None and api[2] == "auth-check":
            return self._json({})
        revision = (file[2] if file else api[3] if api else None) or "main"
        commit = repo.resolve(revision)
        if commit is None:
            return self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if file is not None:
            return self._file(repo, commit, file[3])
        assert api is not None
        if api[2] == "tree":
            under = f"{api[4]}/" if api[4] else ""
            listed = [repo.file(name) for name in repo.names() if name.startswith(under)]
            return self._json(listed) if listed else self._missing(commit)
        return self._json(repo.info(model))

    def _missing(self, commit: str) -> None:
        self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})

    def _json(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _file(self, repo: Repo, commit: str, name: str) -> None:
        if name not in repo.names():
            return self._missing(commit)
        content, etag = (repo.folder / name).read_bytes(), repo.etag(name)
        ranged = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "")
        start = int(ranged[1]) if ranged else 0
        self.send_response(206 if ranged else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{etag}"')
        if name.endswith(LARGE):
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-ETag", f'"{etag}"')
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command != "HEAD":
            self._send(repo, content[start:], name.endswith(LARGE))
        return None

    def _send(self, repo: Repo, content: bytes, is_large: bool) -> None:
        """Slowly, or not to the end, where that is asked for."""
        most = repo.break_after if is_large else None
        for start in range(0, len(content), CHUNK):
            if most is not None and start >= most:
                self.close_connection = True
                return
            piece = content[start : start + CHUNK]
            with suppress(ConnectionError):
                self.wfile.write(piece)
            if repo.bytes_per_s:
                time.sleep(len(piece) / repo.bytes_per_s)
