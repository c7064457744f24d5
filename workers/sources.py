"""Where a model's files are, and what names their content. Must not know how they are loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tokenyard.broker.errors import SetupError
from tokenyard.broker.hub import CONFIG, snapshot_dir
from tokenyard.broker.spec import DEMO, DEMO_DIR, GGUF, ModelSpec, local_directory, local_gguf
from tokenyard.workers.download import fetch
from tokenyard.workers.files import digest

MAX_NAMES = 8
"""Of files, in words for people."""
NO_CONFIG = f"it has no {CONFIG}; a GGUF file is chosen by ,file=NAME{GGUF}"


class Source(NamedTuple):
    """Where one model comes from."""

    name: str
    """An absolute directory, or a Hub name: as transformers takes it."""
    file: str = ""
    """The GGUF file there that has it all; empty for other weights."""

    @property
    def is_local(self) -> bool:
        return Path(self.name).is_dir()


class Files(NamedTuple):
    """One state of a model's files."""

    directory: Path
    """Where they are; of a Hub name, in its cache."""
    commit: str
    """Of the Hub; of local files a digest."""


def find_source(spec: ModelSpec) -> Source:
    """Look at this machine's disk, not at the Hub. Raises SetupError."""
    name = spec.source
    if name == DEMO:
        return Source(str(DEMO_DIR))
    if path := local_gguf(name):
        return Source(str(path.parent), path.name)
    if directory := local_directory(name):
        return Source(str(directory), _find_gguf(directory, spec.file))
    if Path(name).is_absolute() or name.startswith((".", "~")):
        raise SetupError("there is no such directory or GGUF file")
    if name.lower().endswith(GGUF):
        raise SetupError("there is no such file; one on the Hub is OWNER/NAME,file=FILE.gguf")
    return Source(name, spec.file or "")


def find_files(source: Source, revision: str | None, on_progress: Callable[[float], None]) -> Files:
    """The files of a directory, or those of a Hub model at the commit that its revision is now, fetched if need be.

    `on_progress` hears fractions of a download. Raises SetupError.
    """
    directory, commit = Path(source.name), ""
    if not source.is_local:
        commit = fetch(source.name, revision, source.file or None, on_progress)
        directory = snapshot_dir(source.name, commit)
    if not (directory / (source.file or CONFIG)).is_file():
        raise SetupError(NO_CONFIG)
    return Files(directory, commit or digest(directory / source.file))


def _find_gguf(directory: Path, wanted: str | None) -> str:
    """The file that is asked for, else the only one of a directory that has no other model; else none."""
    if wanted and (directory / wanted).is_file():
        return wanted
    names = sorted(path.name for path in directory.iterdir() if path.suffix.lower() == GGUF)
    there = f"there are {', '.join(names[:MAX_NAMES])}{', ...' if len(names) > MAX_NAMES else ''}"
    if wanted:
        raise SetupError(f"there is no file {wanted}{f'; {there}' if names else ''}")
    if (directory / CONFIG).is_file() or not names:
        return ""
    if len(names) > 1:
        raise SetupError(f"it has several GGUF files: choose one with ,file=NAME; {there}")
    return names[0]
