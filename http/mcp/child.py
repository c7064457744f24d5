"""Runs a stdio server's command so that nothing of it outlives the front: `python child.py PARENT_PID COMMAND [ARG
...]`.

It stands between the front and the command, hands stdin and stdout through, and ends everything below it when the
command ends, when it is told to, or when the front dies, also of kill -9. Grandchildren that left the process group
are found too. Uses nothing but the standard library and imports nothing of ours, as it starts once for each server.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2), linux/prctl.h."""
GRACE_S = 1.0
"""What is told to end has so long; the SDK's own patience is 2 s."""
ENDINGS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def main(arguments: list[str]) -> int:
    """Exit status: the command's own, or 127 where it cannot be started, as in a shell."""
    parent_pid, command = int(arguments[0]), arguments[1:]
    watched = {*ENDINGS, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:  # it died before the kernel was told
        return 1

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # if this process is killed itself
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)

    try:
        child = subprocess.Popen(command, preexec_fn=prepare)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127
    _let_go_of_pipes()
    while child.poll() is None:
        if signal.sigwait(watched) in ENDINGS:
            _end_all(signal.SIGTERM)
            break
        _reap_adopted(child.pid)
    deadline = time.monotonic() + GRACE_S
    while (child.poll() is None or _descendants()) and time.monotonic() < deadline:
        _end_all(signal.SIGTERM)
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)
        _reap_adopted(child.pid)
    while _descendants():
        _end_all(signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)
        child.poll()
        _reap_adopted(child.pid)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _let_go_of_pipes() -> None:
    """The command's ends of the pipes are the only ones: its end is seen at once."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)


def _descendants() -> list[int]:
    """All processes below this one, those included that were orphaned and adopted; zombies are none."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue  # it has ended meanwhile
            if state not in "ZX":
                parents[int(name)] = int(parent)
    found = [os.getpid()]
    for pid in found:
        found += [one for one, parent in parents.items() if parent == pid]
    return found[1:]


def _end_all(signum: signal.Signals) -> None:
    for pid in _descendants():
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            continue


def _reap_adopted(own_pid: int) -> None:
    """Bury adopted processes; the command itself is Popen's to bury."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == own_pid:
            return
        os.waitpid(found.si_pid, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
