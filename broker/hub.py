"""A model on the Hub as fronts and workers must both see it: part of the contract.

Which commit a revision is, which of its files serve it and how large they are, whether they are here already, and words
for what goes wrong. Talks to the Hub and reads its cache, so it belongs in a thread; of weights it fetches none. The
settings are huggingface_hub's own: HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN, HF_HOME and HF_HUB_CACHE.
"""

import errno
import glob
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import orjson
from huggingface_hub import HfApi, constants, get_cached_repo_tree, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from tokenyard.broker.errors import TokenyardError, first_line

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
TIMEOUT_S = 10.0
"""One question to the Hub: huggingface_hub's own default."""
RETRY_MS = 5000
"""Of what may pass by itself: as long as a front remembers a failure."""
COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PICKLED = ".bin"
LAYOUTS = {
    WEIGHTS: re.compile(r"model-\d+-of-\d+\.safetensors"),
    "pytorch_model.bin": re.compile(r"pytorch_model-\d+-of-\d+\.bin"),
}
"""Weights as one file or in parts beside an index, as transformers looks for them."""
BESIDE = re.compile(
    r"[^/]+\.(json|jinja|txt|model|tiktoken|py)"  # config, tokenizer, template, code of its own
    r"|additional_chat_templates/[^/]+\.jinja"
    r"|\d_[^/]+/config\.json"  # of sentence-transformers: how vectors are made
)
"""What is read beside the weights: all small, so that more of them than needed do no harm."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")
"""A snapshot of which no list of files was kept is whole only with one of these."""

TransportError: type[Exception] = HfHubHTTPError.__mro__[1]
"""What the Hub's client raises for all that goes wrong on the way: HTTPError of httpx or of httpx2."""


class Repository(NamedTuple):
    """One commit of a model's repository, as the Hub tells it."""

    commit: str
    sizes: dict[str, int]
    """Bytes of each file."""
    num_gguf_parameters: int = 0
    """Weights in each of its GGUF files, which differ in their types only; 0: unknown, or there are none."""


def weight_names(names: Collection[str]) -> list[str]:
    """Of a repository's files those with its weights, as transformers chooses them; empty: it has none."""
    for whole, part in LAYOUTS.items():
        if whole in names:
            return [whole]
        if f"{whole}.index.json" in names:
            return sorted(name for name in names if part.fullmatch(name))
    return []


def needed_names(names: Collection[str], weights: Collection[str] | None = None) -> list[str]:
    """Of a repository's files those that serve it: its weights, or those given, and what is read beside them."""
    chosen = weight_names(names) if weights is None else weights
    return [*chosen, *sorted(name for name in names if BESIDE.fullmatch(name))]


def look_up(name: str, revision: str | None) -> Repository:
    """Ask the Hub. Raises TokenyardError with words for the user."""
    api = HfApi()
    try:
        info = api.model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        if info.gated:
            api.auth_check(name)
    except (TransportError, OSError) as error:
        raise explain(error, name, revision) from error
    except (ValueError, LookupError, TypeError) as error:
        words = f"what answers at {constants.ENDPOINT} is no Hub"
        raise TokenyardError("hub_unreachable", words, "model", retry_ms=RETRY_MS) from error
    sizes = {one.rfilename: one.size or 0 for one in info.siblings or []}
    told = (info.gguf or {}).get("total", 0)
    return Repository(info.sha or "", sizes, told if isinstance(told, int) else 0)


def is_telling(error: Exception) -> bool:
    """Whether a failure has a cause of its own, so that it is more than a connection that broke."""
    is_system = isinstance(error, OSError) and error.errno is not None
    return is_system or isinstance(error, HfHubHTTPError | OfflineModeIsEnabled)


def explain(error: Exception, name: str, revision: str | None = None) -> TokenyardError:
    """What to tell the user of a failure of huggingface_hub's."""
    hub = constants.ENDPOINT
    if isinstance(error, OfflineModeIsEnabled):
        words = f"the model {name!r} is not in the local Hub cache, and HF_HUB_OFFLINE forbids to fetch it"
        return TokenyardError("model_not_found", words, "model")
    if isinstance(error, GatedRepoError):
        words = f"the model {name!r} is gated: accept its terms at {hub}/{name}, and start the server with HF_TOKEN"
        return TokenyardError("model_gated", f"{words} set to a token of that account", "model")
    if isinstance(error, RevisionNotFoundError):
        return TokenyardError("model_not_found", f"the model {name!r} has no revision {revision!r} on the Hub", "model")
    if isinstance(error, RepositoryNotFoundError):
        words = f"there is no model {name!r} at {hub}, or it is private and needs HF_TOKEN in the server's environment"
        return TokenyardError("model_not_found", words, "model")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            words = f"{hub} refuses the server's HF_TOKEN for the model {name!r} ({status})"
            return TokenyardError("model_gated", words, "model")
        words = f"{hub} answered {status} when it was asked for the model {name!r}"
        return TokenyardError("hub_unreachable", words, "model", retry_ms=RETRY_MS)
    if isinstance(error, TransportError):
        words = f"the model {name!r} is not in the local Hub cache, and {hub} cannot be reached"
        return TokenyardError("hub_unreachable", words, "model", retry_ms=RETRY_MS)
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return TokenyardError("disk_full", f"no space is left in {cache_root()} for the model {name!r}", "model")
    words = f"the model {name!r} cannot be fetched: {first_line(error)}"
    return TokenyardError("hub_unreachable", words, "model", retry_ms=RETRY_MS)


def cache_root() -> Path:
    return Path(constants.HF_HUB_CACHE)


def repository_dir(name: str) -> Path:
    """Where the local Hub cache keeps a model."""
    return cache_root() / repo_folder_name(repo_id=name, repo_type="model")


def snapshot_dir(name: str, commit: str) -> Path:
    return repository_dir(name) / "snapshots" / commit


def cached_commit(name: str, revision: str | None) -> str | None:
    """The commit that a revision was when it was last asked for, if the local cache knows."""
    revision = revision or constants.DEFAULT_REVISION
    if COMMIT.fullmatch(revision):
        return revision if snapshot_dir(name, revision).is_dir() else None
    try:
        commit = (repository_dir(name) / "refs" / revision).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def keep_commit(name: str, revision: str | None, commit: str) -> None:
    """Have the cache know which commit a revision is, as downloads by revision do.

    An older commit that is whole stays until this one is.
    """
    old = cached_commit(name, revision)
    if commit in (revision, old) or (old and is_whole(name, old) and not is_whole(name, commit)):
        return
    path = repository_dir(name) / "refs" / (revision or constants.DEFAULT_REVISION)
    fresh = path.with_name(f"{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(commit)
        fresh.replace(path)
    except OSError:  # a cache that is only read
        return


def is_whole(name: str, commit: str, file: str | None = None) -> bool:
    """Whether all that is needed of this commit is in the local cache; `file`: the GGUF file that has its weights."""
    if not has_weights(name, commit, file):
        return False
    folder = snapshot_dir(name, commit)
    try:
        names = {file.path for file in get_cached_repo_tree(name, revision=commit)}
    except (CachedRepoTreeNotFoundError, OSError):
        # Fetched file by file, as transformers does: nothing tells what else there was. A GGUF file has all in it.
        return bool(file) or any((folder / one).is_file() for one in TOKENIZERS)
    return all((folder / one).is_file() for one in needed_names(names, weights=()))


def has_weights(name: str, commit: str, file: str | None = None) -> bool:
    """Whether what a worker cannot do without is in the local cache: config and weights, or the GGUF file."""
    folder = snapshot_dir(name, commit)
    try:
        needed = [file] if file else [CONFIG, *local_weights(folder)]
    except ValueError:
        return False
    return needed != [CONFIG] and all((folder / one).is_file() for one in needed)


def fetch_config(name: str, commit: str) -> Path:
    """Have a model's config.json in the cache, and return its directory. Raises TokenyardError."""
    try:
        return Path(hf_hub_download(name, CONFIG, revision=commit, etag_timeout=TIMEOUT_S)).parent
    except (TransportError, OSError) as error:
        raise explain(error, name) from error


def small_files(name: str, commit: str, file: str | None = None) -> Path:
    """Have all but the weights of this commit in the cache, and return where they are. Raises TokenyardError."""
    folder = snapshot_dir(name, commit)
    if is_whole(name, commit, file):
        return folder
    try:
        needed = needed_names(look_up(name, commit).sizes, weights=())
        snapshot_download(name, revision=commit, allow_patterns=patterns(needed))
    except TokenyardError:
        if not any((folder / one).is_file() for one in TOKENIZERS):
            raise
    except (TransportError, OSError) as error:
        raise explain(error, name) from error
    return folder


def patterns(names: Collection[str]) -> list[str]:
    """These files and no others, for snapshot_download."""
    return [glob.escape(name) for name in names]


def local_weights(folder: Path) -> list[str]:
    """Names of a directory's weights, parts that are missing included. Raises ValueError: an index is broken."""
    for whole in LAYOUTS:
        index = folder / f"{whole}.index.json"
        if (folder / whole).is_file():
            return [whole]
        if index.is_file():
            try:
                names = set(orjson.loads(index.read_bytes())["weight_map"].values())
            except (OSError, LookupError, AttributeError, TypeError, ValueError) as error:
                raise ValueError(f"{index.name} is no index of weights") from error
            if not all(isinstance(name, str) and "/" not in name for name in names):
                raise ValueError(f"{index.name} names files that are not beside it")
            return sorted(names)
    return []


def missing_bytes(name: str, repository: Repository, needed: Collection[str]) -> int:
    """What is still to be fetched of these files."""
    folder = snapshot_dir(name, repository.commit)
    return sum(repository.sizes[one] for one in needed if not (folder / one).is_file())


def refuse_full_disk(name: str, missing: int) -> None:
    """Raise TokenyardError if so many bytes of a model do not fit on the disk of the cache."""
    root = cache_root()
    disk = next(path for path in (root, *root.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(disk).free
    if missing > free:
        words = f"the model {name!r} needs {in_words(missing)} more in {root}, where {in_words(free)} are free"
        raise TokenyardError("disk_full", words, "model")


def in_words(num_bytes: float) -> str:
    """A size for people."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} GB"
