"""Where a pool's sockets are: a fresh private run directory for each `serve`, and the way back to it for `status`."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tokenyard.broker.config import RunDir, default_run_dir
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import SetupError

_PREFIX = "tokenyard-run-"
_LOCK = "supervisor"
_BROKER = "broker.json"
"""In the run directory of an agent whose broker is on tcp: its endpoint, and the folder of this box's keys."""


@contextmanager
def pool_dir(given: Path | None) -> Iterator[RunDir]:
    """The run directory of one supervisor's life: the given one, else a fresh one that is removed at the end.

    Raises SetupError where another supervisor lives in it.
    """
    if given is not None:
        run_dir = RunDir(given.absolute()).create()
        run_dir.lock(_LOCK)
        _point_to(run_dir.path)
        yield run_dir
        return
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")
    _sweep(base)
    try:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))  # mode 0700
    except OSError as error:
        words = f"no run directory can be made in {base}: {error.strerror}; choose one with --run-dir"
        raise SetupError(words) from error
    run_dir = RunDir(path).create()
    run_dir.lock(_LOCK)
    try:
        _point_to(path)
        yield run_dir
    finally:
        shutil.rmtree(path, ignore_errors=True)


def find_broker(given: Path | None, broker: str | None = None, keys: Path | None = None) -> BrokerAddress:
    """The broker that a control command means: the given one, else that of the given run directory.

    Without one, of the pool that was last served here, else of the user's own directory.
    """
    path = _find_dir(given)
    if broker is None:
        with suppress(OSError, ValueError):
            noted = json.loads((path / _BROKER).read_text())
            broker = noted["broker"]
            keys = keys or (Path(noted["keys"]) if noted["keys"] else None)
    return BrokerAddress.of(path, broker, keys)


def note_broker(run_dir: RunDir, address: BrokerAddress) -> None:
    """Have control commands find the broker of this box's agent by its run directory. Raises SetupError."""
    path = run_dir.path / _BROKER
    try:
        if address.is_remote:
            keys = str(address.keys.folder) if address.keys else ""
            path.write_text(json.dumps({"broker": address.front, "keys": keys}))
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}") from error


def _find_dir(given: Path | None) -> Path:
    if given is not None:
        return given.absolute()
    return [default_run_dir(), *_served()][-1]


def _pointer() -> Path:
    return default_run_dir() / "last"


def _served() -> list[Path]:
    """The run directories that are there still, the latest last: a pool may outlive one that began after it."""
    try:
        lines = _pointer().read_text().splitlines()
    except OSError:
        return []
    return [Path(line) for line in lines if line and os.path.isdir(line)]


def _point_to(path: Path) -> None:
    RunDir(default_run_dir()).create()
    served = [*(one for one in _served() if one != path), path]
    try:
        _pointer().write_text("".join(f"{one}\n" for one in served))
    except OSError as error:
        raise SetupError(f"{_pointer()} cannot be written: {error.strerror}") from error


def _sweep(base: Path) -> None:
    """Remove what supervisors that were killed have left: run directories of ours that nobody holds."""
    for path in base.glob(f"{_PREFIX}*"):
        with suppress(OSError, SetupError):
            if path.is_symlink() or path.stat().st_uid != os.getuid():  # anybody may make links in /tmp
                continue
            os.close(RunDir(path).lock(_LOCK))
            shutil.rmtree(path)
