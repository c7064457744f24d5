"""Where a pool's sockets are: a fresh private run directory for each `serve`, and the way back to it for `status`."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tokenyard.broker.config import RunDir, default_run_dir
from tokenyard.broker.errors import SetupError

_PREFIX = "tokenyard-run-"
_LOCK = "supervisor"


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


def find_pool(given: Path | None) -> RunDir:
    """The pool that a control command means: the given one, else the last served, else the user's own."""
    if given is not None:
        return RunDir(given.absolute())
    with suppress(OSError):
        path = Path(_pointer().read_text().strip())
        if path.is_dir():
            return RunDir(path)
    return RunDir(default_run_dir())


def _pointer() -> Path:
    return default_run_dir() / "last"


def _point_to(path: Path) -> None:
    RunDir(default_run_dir()).create()
    try:
        _pointer().write_text(f"{path}\n")
    except OSError as error:
        raise SetupError(f"{_pointer()} cannot be written: {error.strerror}") from error


def _sweep(base: Path) -> None:
    """Remove what supervisors that were killed have left: run directories of ours that nobody holds."""
    for path in base.glob(f"{_PREFIX}*"):
        with suppress(OSError, SetupError):
            if path.stat().st_uid != os.getuid():
                continue
            os.close(RunDir(path).lock(_LOCK))
            shutil.rmtree(path)
