"""What a process settles with the kernel before all else: it dies with its parent, and may have many files open.

Uses nothing but the standard library.
"""

import ctypes
import os
import resource
import signal
import threading

BELLS = "TOKENYARD_BELLS"
"""Set by a parent that wants to hear at once when this process begins to die: two descriptors to hold until then."""
PARENT_PID = "TOKENYARD_PARENT_PID"
"""Set by a parent whose death should be this process's death."""
SECRET = "TOKENYARD_SECRET"
"""Set for a worker by its agent: what its incarnation is made of, in hex."""

MAX_FILES = 1 << 16
"""Open at once: 30,000 streams of one front, with a client's connection and perhaps a file each. Where far more are
allowed, programs that close whatever might be open take long."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2), linux/prctl.h."""
_CLONE_FILES = 0x400
"""unshare(2), linux/sched.h."""


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


def allow_files() -> None:
    """Many shells let a process have 1,024 files open unless it asks for more, as a front with 1,000 streams must."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that it can be found and ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hang_bells() -> None:
    """Have the descriptors that the parent passed closed when this process begins to die, however it ends.

    The kernel closes a process's descriptors, and lets its parent know, only once all its memory is freed: for half a
    gigabyte 0.04 s on idle cores, up to 3 s on busy ones. But each thread leaves at once, and a thread may have a table
    of descriptors of its own. So one that does nothing else holds a bell alone. There are two of them, since the last
    thread to leave is the one that frees the memory first.
    """
    for bell in map(int, filter(None, os.environ.pop(BELLS, "").split(","))):
        os.set_inheritable(bell, False)
        is_tried = threading.Event()
        holder = _Holder(bell, is_tried)
        holder.start()
        is_tried.wait()
        if holder.holds_alone:  # else it rings late, which is harmless
            os.close(bell)


class _Holder(threading.Thread):
    """Holds one descriptor, and nothing else, for as long as it lives."""

    def __init__(self, bell: int, is_tried: threading.Event) -> None:
        super().__init__(name="bell", daemon=True)
        self._bell = bell
        self._is_tried = is_tried
        self.holds_alone = False

    def run(self) -> None:
        self.holds_alone = ctypes.CDLL(None).unshare(_CLONE_FILES) == 0
        if self.holds_alone:
            os.closerange(0, self._bell)
            os.closerange(self._bell + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._is_tried.set()
        threading.Event().wait()


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
