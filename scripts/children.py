"""Starting, hearing and ending child processes. What to start and when is decided in watch.py."""

import os
import signal
import subprocess
import sys
from collections.abc import Container, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import psutil

from tokenyard.broker.logs import message_of
from tokenyard.scripts.tie import BELLS, PARENT_PID
from tokenyard.scripts.watch import SETUP_STATUS

READ_BYTES = 1 << 16
"""A pipe's capacity (pipe(7)): one read empties it."""


@dataclass(slots=True)
class Child:
    """A living process of ours: its handle, its death as a descriptor, its log."""

    inc: bytes
    process: subprocess.Popen[bytes]
    death: int
    """pidfd: readable once the process has ended."""
    log: int
    """Reading end of the pipe that takes its stdout and stderr; non-blocking."""
    is_unwanted: bool = False
    """Killed by us, as somebody asked for it."""
    log_ended: bool = False
    last_line: str = ""
    """Of its log so far: where it dies of an exception, this names it."""
    partial: bytes = b""
    """The unfinished last line."""
    verdict: str = ""
    """Why we have killed it, where that is its own fault."""
    bells: list[int] = field(default_factory=list)
    """Reading ends of pipes, one of which is closed as soon as the process begins to die (tie.hang_bells)."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def descriptors(self) -> list[int]:
        """What to wait for."""
        return [self.death, *([] if self.log_ended else [self.log]), *self.bells]

    def rings(self, ready: Container[object]) -> bool:
        """Whether it is seen to be dying, of which it lets us know but once; `ready`: descriptors to read from."""
        is_dying = any(bell in ready for bell in self.bells)
        if is_dying:
            self._silence_bells()
        return is_dying

    def _silence_bells(self) -> None:
        for bell in self.bells:
            os.close(bell)
        self.bells.clear()

    def read_lines(self) -> list[str]:
        """The whole log lines that have come since the last call; the rest too once the log has ended.

        Of a child that writes without end only so much at once, and of a line without end only so much together.
        """
        chunks: list[bytes] = []
        with suppress(BlockingIOError):
            while len(chunks) < 2 and not self.log_ended:  # the first empties the pipe, the second may find its end
                chunks.append(os.read(self.log, READ_BYTES))
                self.log_ended = not chunks[-1]
        *whole, self.partial = (self.partial + b"".join(chunks)).split(b"\n")
        if self.partial and (self.log_ended or len(self.partial) > READ_BYTES):
            whole.append(self.partial)
            self.partial = b""
        lines = [line.decode(errors="replace") for line in whole]
        last_line = next((line.strip() for line in reversed(lines) if line.strip()), "")
        self.last_line = message_of(last_line) or self.last_line
        return lines

    def send(self, signum: int) -> None:
        """Signal the process alone; it passes on what its own children must know."""
        self.process.send_signal(signum)

    def kill(self) -> None:
        """End it and its process group at once."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()

    def reap(self) -> int:
        """The status of an ended process, its group ended with it; the child's descriptors are closed after this.

        The group is killed first: until the wait, the zombie keeps its number from being used again.
        """
        self.kill()
        status = self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._silence_bells()
        os.close(self.death)
        os.close(self.log)
        return status


def start_child(
    arguments: list[str],
    inc: bytes,
    environment: Mapping[str, str] = {},
    pass_fds: tuple[int, ...] = (),
    is_fed: bool = False,
    has_bells: bool = False,
) -> Child:
    """Run `tokenyard ARGUMENTS` tied to this process, in a group of its own: Ctrl-C reaches only the supervisor.

    `is_fed`: its stdin is a pipe from us. `has_bells`: it lets us know when it begins to die. Raises OSError where
    memory, descriptors or process numbers are used up; nothing is left behind then.
    """
    environment = {**os.environ, **environment, PARENT_PID: str(os.getpid())}
    with ExitStack() as ours, ExitStack() as theirs:
        log, writing = _pipe(ours, theirs)
        os.set_blocking(log, False)
        bells = [_pipe(ours, theirs) for _ in range(2 if has_bells else 0)]
        held = tuple(end for _, end in bells)
        if held:
            environment[BELLS] = ",".join(map(str, held))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tokenyard.scripts.cli", *arguments],
            stdin=subprocess.PIPE if is_fed else subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            env=environment,
            pass_fds=(*pass_fds, *held),
            process_group=0,
        )
        ours.enter_context(process)
        ours.callback(process.kill)
        child = Child(inc, process, os.pidfd_open(process.pid), log, bells=[end for end, _ in bells])
        ours.pop_all()  # it is the child's now
        return child


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    """Its ends, the reading and the writing one, each closed with its stack."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    return reading, writing


def end_strays(known_pids: set[int]) -> None:
    """End and reap descendants that were orphaned by a child's death and adopted by us (tie.adopt_orphans)."""
    for stray in psutil.Process().children():
        if stray.pid in known_pids:
            continue
        for process in [*stray.children(recursive=True), stray]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        try:
            os.waitpid(stray.pid, 0)
        except ChildProcessError:
            continue


def cause_of_death(status: int, last_line: str, num_oom_kills: int) -> tuple[str, str]:
    """Why a process ended, as Exited tells it: (cause, words). `num_oom_kills`: the kernel's, around the death."""
    if status == 0:
        return "drained", "ended as asked"
    if status == SETUP_STATUS and last_line:
        return "crash", last_line  # one line of its own that says what to change
    if status > 0:
        return "crash", f"exit status {status}: {last_line}"
    name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
    if -status == signal.SIGKILL and num_oom_kills:
        return "crash", "killed by the kernel: out of memory"
    if -status in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return "killed", f"{name} from outside"
    return "crash", f"died of {name}: {last_line}"


def count_oom_kills() -> int:
    """How many processes the kernel has killed for memory since boot; 0 where it does not tell."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
