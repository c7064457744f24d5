"""The front as a process: small, without torch, clear about what hinders it, and gone when told."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from models import DEMO
from tokenizers import Tokenizer
from yard import free_port, wait_until

from tokenyard.broker.errors import SetupError
from tokenyard.http.main import open_socket
from tokenyard.http.options import FrontOptions

pytestmark = pytest.mark.slow

MAX_RSS_BYTES = 200 << 20
"""What a front may take, by the project's own promise."""
NUM_LARGE = 151_000
"""Tokens of Qwen3's vocabulary."""


@contextmanager
def front(tmp_path: Path, *arguments: str, pass_fds: tuple[int, ...] = ()) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenyard.scripts.cli", "front", "--run-dir", str(tmp_path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
        cwd=tmp_path,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def save_large_tokenizer(directory: Path) -> str:
    """A byte-level BPE of as many tokens as Qwen3's, each a merge of two shorter ones."""
    tokenizer = json.loads((Path(DEMO) / "tokenizer.json").read_text())
    letters = list(Tokenizer.from_str(json.dumps(tokenizer)).get_vocab())
    letters = sorted(letter for letter in letters if len(letter) == 1)
    pairs = [(first, second) for first in letters for second in letters]
    triples = [("".join(pair), letter) for letter in letters for pair in pairs]
    merges = (pairs + triples)[: NUM_LARGE - len(letters)]
    tokens = [*letters, *map("".join, merges)]
    tokenizer["model"] |= {"vocab": {token: index for index, token in enumerate(tokens)}, "merges": merges}
    tokenizer["added_tokens"] = []
    shutil.copytree(DEMO, directory)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(directory)


@pytest.mark.parametrize("large", [False, True], ids=["demo vocabulary", "large vocabulary"])
def test_the_process_is_small_and_never_imports_torch(tmp_path: Path, large: bool) -> None:
    source = save_large_tokenizer(tmp_path / "large") if large else DEMO
    program = f"""
        import asyncio, sys
        from pathlib import Path
        from tokenyard.http import main
        from tokenyard.broker.endpoints import BrokerAddress
        from tokenyard.broker.wire import Card
        card = Card(["demo"], {source!r}, "c", 2048, 4096, 16, "paged", "float32", "cpu", 2048, [2039])

        async def run():
            pool = main.Pool(BrokerAddress.of(Path({str(tmp_path)!r})))
            main.create_app(pool, main.FrontOptions(run_dir=Path({str(tmp_path)!r})))
            from tokenyard.http.library import TokenizerLibrary
            loaded = await TokenizerLibrary().get(card)
            text = loaded.chat.apply_chat_template([{{"role": "user", "content": "hi"}}], tokenize=False)
            assert loaded.backend.get_vocab_size() >= {NUM_LARGE if large else 2048}
            assert loaded.backend.decode(loaded.backend.encode(text).ids, skip_special_tokens=False) == text

        asyncio.run(run())
        import psutil
        assert "torch" not in sys.modules
        print(psutil.Process().memory_info().rss)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MAX_RSS_BYTES


@pytest.mark.parametrize("wait", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_ends_when_told(tmp_path: Path, wait: signal.Signals) -> None:
    port = free_port()
    with front(tmp_path, "--port", str(port)) as process:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), "the front")
        refused = httpx.get(f"http://127.0.0.1:{port}/ready")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "pool_unavailable")
        process.send_signal(wait)
        assert process.wait(timeout=10) == 0


def test_an_inherited_socket_is_served(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with front(tmp_path, "--fd", str(listener.fileno()), pass_fds=(listener.fileno(),)):
            wait_until(lambda: answers(f"http://127.0.0.1:{port}"), "the front")


def test_what_is_no_http_is_answered_as_openai_words_errors(tmp_path: Path) -> None:
    port = free_port()
    with front(tmp_path, "--port", str(port)):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), "the front")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"no HTTP at all\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/json" in head
    assert int(head.partition(b"content-length: ")[2].split()[0]) == len(body)
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}


def test_a_taken_port_is_said_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with front(tmp_path, "--port", str(port)) as process:
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert (
        errors.decode().strip()
        == f"tokenyard: cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port"
    )


@pytest.mark.parametrize("wish", [{"host": "no.such.host.invalid"}, {"port": 99_999}, {"fd": 12_345}])
def test_what_cannot_be_listened_on_is_said_in_words(wish: dict[str, str | int]) -> None:
    with pytest.raises(SetupError):
        open_socket(FrontOptions(run_dir=Path("/nowhere"), **wish))  # type: ignore[arg-type]


def test_a_file_is_no_socket(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    try:
        with pytest.raises(SetupError, match="no socket"):
            open_socket(FrontOptions(run_dir=tmp_path, fd=descriptor))
    finally:
        os.close(descriptor)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", *names]
    subprocess.run(["openssl", "req", *made, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


@contextmanager
def commanded(tmp_path: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """`tokenyard front` with these arguments, and the file that takes its log."""
    log = tmp_path / "front.log"
    command = [sys.executable, "-m", "tokenyard.scripts.cli", "front", "--run-dir", str(tmp_path / "run"), *arguments]
    with log.open("wb") as taken:
        process = subprocess.Popen(command, stdout=taken, stderr=taken, cwd=tmp_path)
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


def test_https_and_lines_of_json(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    port = free_port()
    tls = ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    limits = ["--api-key", "sk-secret", "--log-json"]
    context = ssl.create_default_context(cafile=certificate)
    with commanded(tmp_path, "--port", str(port), *tls, *limits) as (process, log):

        def get(path: str, key: str) -> int:
            headers = {"authorization": f"Bearer {key}"}
            try:
                return httpx.get(f"https://127.0.0.1:{port}{path}", headers=headers, verify=context).status_code
            except httpx.TransportError:
                assert process.poll() is None, log.read_text()
                return 0

        wait_until(lambda: get("/health", "none"), "the front")
        assert get("/v1/models", "sk-secret") == 200
        assert get("/v1/models", "sk-wrong") == 401
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/health")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    listening = next(line for line in lines if "listening" in line["message"])
    assert f"https://127.0.0.1:{port}" in listening["message"]
    assert [line["status"] for line in lines if line.get("path") == "/v1/models"] == [200, 401]
    assert "sk-" not in log.read_text()


def test_an_open_door_is_warned_of(tmp_path: Path) -> None:
    with commanded(tmp_path, "--host", "0.0.0.0", "--port", "0") as (_, log):
        wait_until(lambda: "WHOEVER REACHES IT" in log.read_text(), "the warning")


def test_files_that_make_no_https_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("none")
    for path, words in (("cert.pem", "are no certificate and key"), ("absent.pem", "there is no file")):
        with commanded(tmp_path, "--port", "0", "--ssl-certfile", path) as (process, log):
            assert process.wait(60) == 2
            assert words in log.read_text()
