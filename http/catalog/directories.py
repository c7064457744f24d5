"""The models under --models-dir: DIR/NAME and DIR/ORG/NAME, found by these names and by nothing else.

Each is a directory with a config.json or with one GGUF file, or the file NAME.gguf.
"""

from collections.abc import Iterator
from pathlib import Path

from tokenyard.broker.hub import CONFIG
from tokenyard.broker.spec import GGUF


def find_model(root: Path, name: str) -> Path | None:
    """The directory or GGUF file of this name, if it is one under `root` and not a link that leads out of it."""
    parts = name.split("/")
    if len(parts) > 2 or not all(map(_is_plain, parts)):
        return None
    path = root.joinpath(*parts)
    try:
        if not ((path / CONFIG).is_file() or only_gguf(path)):
            path = path.with_name(path.name + GGUF)
        within = (path.is_dir() or path.is_file()) and path.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError):
        return None  # no file can be called so: too long, or a null byte
    return path if within else None


def only_gguf(directory: Path) -> Path | None:
    """The directory's one GGUF file; None if it has a config.json, or several files of the kind."""
    files = sorted(directory.glob(f"*{GGUF}"))
    return files[0] if len(files) == 1 and not (directory / CONFIG).is_file() else None


def list_models_in(root: Path) -> Iterator[tuple[str, Path]]:
    """All models there, by name."""
    for outer in _names(root):
        if found := find_model(root, outer):
            yield outer, found
        else:
            for inner in _names(root / outer):
                if found := find_model(root, f"{outer}/{inner}"):
                    yield f"{outer}/{inner}", found


def _names(path: Path) -> list[str]:
    try:
        return sorted({one.name.removesuffix(GGUF) for one in path.iterdir() if _is_plain(one.name)})
    except OSError:
        return []


def _is_plain(part: str) -> bool:
    """Not hidden, no way up or out; commas and equals signs mean something in a MODEL_SPEC."""
    return bool(part) and part[0] not in ".~" and not any(mark in part for mark in "\\\0,=/")
