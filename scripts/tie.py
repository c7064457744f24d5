"""A process that its parent started dies with it. Uses nothing but the standard library: it runs before all else."""

import ctypes
import os
import signal

PARENT_PID = "TOKENYARD_PARENT_PID"
"""Set by a parent whose death should be this process's death."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2), linux/prctl.h."""


def tie_to_parent() -> None:
    """Have the kernel kill this process when the parent that asked for it ends, however it ends.

    Done by the child itself, not by preexec_fn, which is unsafe beside threads; should the parent have died meanwhile,
    getppid tells. The kernel watches the parent's thread: children are started from its main thread.
    """
    parent_pid = os.environ.pop(PARENT_PID, "")
    if not parent_pid:
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent_pid):
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that it can be found and ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
