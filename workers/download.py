"""Gets the files of a model on the Hub into its local cache, with visible progress. Must not know how they are loaded.

huggingface_hub does the work: files that are whole are kept, so that the next try goes on with the others; a connection
that breaks within a file goes on where it stopped, a few times.
"""

import fcntl
import logging
from collections.abc import Callable
from threading import Lock
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.utils.tqdm import tqdm

from tokenyard.broker import hub
from tokenyard.broker.errors import SetupError, TokenyardError
from tokenyard.broker.hub import Repository
from tokenyard.broker.spec import GGUF

log = logging.getLogger(__name__)

BYTES_BAR = "huggingface_hub.snapshot_download"
"""The name of the bar that counts bytes of all files as they come to the disk; others count files, or the network's."""

DOWNLOAD_SHARE = 0.8
"""Of a load that begins with a download: 100 MB/s takes four times as long as a disk that is read at 400 MB/s."""
NUM_FILES = 2
"""Files at once. What is not whole when a try ends is lost: two that come one after another are there sooner than eight
that come side by side, and hf_xet uses several connections for each."""
FAILURES = (hub.TransportError, OSError, RuntimeError)
"""What huggingface_hub raises, and hf_xet, which it uses for large files."""


class Stages:
    """The fraction of a load that may have a download before it, for people."""

    def __init__(self, on_progress: Callable[[float], None]) -> None:
        self._tell = on_progress
        self._begin = 0.0

    def download(self, fraction: float) -> None:
        self._begin = DOWNLOAD_SHARE
        self._tell(DOWNLOAD_SHARE * fraction)

    def load(self, fraction: float) -> None:
        """All of it, if nothing was downloaded."""
        self._tell(self._begin + (1 - self._begin) * fraction)


def fetch(name: str, revision: str | None, file: str | None, on_progress: Callable[[float], None]) -> str:
    """Have all that a model needs in the cache, and return its commit. `file`: the GGUF file that has its weights.

    `on_progress` hears fractions of the bytes, if any have to come. Raises SetupError.
    """
    try:
        return _fetch(name, revision, file, on_progress)
    except TokenyardError as error:
        raise SetupError(error.words) from error


def _fetch(name: str, revision: str | None, file: str | None, on_progress: Callable[[float], None]) -> str:
    if revision and hub.COMMIT.fullmatch(revision) and hub.is_whole(name, revision, file):
        return revision
    try:
        repository = hub.look_up(name, revision)
    except TokenyardError as error:
        cached = hub.cached_commit(name, revision)
        if cached is None or not hub.has_weights(name, cached, file):
            raise
        log.warning("%s is taken from the local cache: %s", name, error.words)
        return cached
    if not hub.is_whole(name, repository.commit, file):
        _download(name, repository, file, on_progress)
    hub.keep_commit(name, revision, repository.commit)
    return repository.commit


def _download(name: str, repository: Repository, file: str | None, on_progress: Callable[[float], None]) -> None:
    weights = [file] if file else hub.weight_names(repository.sizes)
    if not weights or not set(weights) <= repository.sizes.keys():
        words = f"it has no file {file}" if file else f"it has no weights called {' or '.join(hub.LAYOUTS)}"
        gguf = sorted(one for one in repository.sizes if one.lower().endswith(GGUF))
        raise SetupError(words + (f"; a GGUF file is chosen by ,file={gguf[0]}" if gguf else ""))
    needed = hub.needed_names(repository.sizes, weights)
    missing = hub.missing_bytes(name, repository, needed)
    hub.refuse_full_disk(name, missing)
    _sweep(name)
    log.info("%s: %s are fetched", name, hub.in_words(missing))
    try:
        snapshot_download(
            name,
            revision=repository.commit,
            allow_patterns=hub.patterns(needed),
            max_workers=NUM_FILES,
            tqdm_class=_bar(missing, on_progress),
        )
    except FAILURES as error:
        if hub.is_telling(error):
            raise hub.explain(error, name) from error
        words = (
            f"the connection broke off while the model {name!r} was fetched; the next try goes on with what is missing"
        )
        raise TokenyardError("hub_unreachable", words, "model") from error


def _bar(total: int, on_progress: Callable[[float], None]) -> type[tqdm]:
    """A progress bar that shows nothing and tells `on_progress` instead."""
    lock = Lock()
    done, told = 0, 0

    class Bar(tqdm):
        def __init__(self, *given: Any, **options: Any) -> None:
            self._counts = options.get("name") == BYTES_BAR
            super().__init__(*given, **options | {"disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            """Files come in several threads, and one that starts anew counts back."""
            nonlocal done, told
            if self._counts:
                with lock:
                    done += int(n or 0)
                    if done > told:
                        told = done
                        on_progress(min(1.0, done / max(1, total)))

    return Bar


def _sweep(name: str) -> None:
    """Remove what a killed process left of files that it was fetching: huggingface_hub begins them anew.

    Whoever fetches a file holds its lock.
    """
    folder = hub.repository_dir(name)
    for path in folder.glob("blobs/*.incomplete"):
        lock = hub.cache_root() / ".locks" / folder.name / f"{path.name.partition('.')[0]}.lock"
        try:
            with lock.open("a") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except OSError:  # somebody fetches it, or the disk knows no locks
            continue
