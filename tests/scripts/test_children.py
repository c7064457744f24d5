"""Children on real processes: their logs, their deaths, and who dies with whom."""

import errno
import os
import select
import signal
import subprocess
import sys
import time

import psutil
import pytest
from yard import wait_until

from tokenyard.scripts.children import READ_BYTES, Child, cause_of_death, start_child
from tokenyard.scripts.standby import MAX_DEATHS, Standbys
from tokenyard.scripts.tie import BELLS


def wait_readable(descriptor: int) -> None:
    wait_until(lambda: select.select([descriptor], [], [], 0)[0], "the descriptor", 20)


def test_a_child_tells_its_log_and_its_status() -> None:
    child = start_child(["version"], b"")
    wait_readable(child.death)
    assert child.read_lines() == ["0.1.0"]
    assert child.log_ended
    assert child.descriptors == [child.death]
    assert child.reap() == 0


@pytest.mark.parametrize("step", ["Popen", "pidfd_open"])
def test_one_that_cannot_be_started_leaves_nothing(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    if step == "Popen":
        monkeypatch.setattr(sys, "executable", "/nowhere")
    else:
        monkeypatch.setattr(os, "pidfd_open", fail)
    children, descriptors = psutil.Process().children(), os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=r"/nowhere|many open files"):
        start_child(["version"], b"", is_fed=True, has_bells=True)
    assert psutil.Process().children() == children
    assert os.listdir("/proc/self/fd") == descriptors


def test_a_standby_that_cannot_be_started_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    standbys = Standbys(["cpu"])
    for _ in range(MAX_DEATHS + 2):
        standbys.start_missing()
    assert caplog.messages == ["the standby process of cpu cannot be started: No such file or directory"] * MAX_DEATHS
    assert standbys.take("cpu", [], b"") is None


def test_the_last_line_says_why_it_failed() -> None:
    child = start_child(["worker"], b"")
    wait_readable(child.death)
    child.read_lines()
    assert "MODEL_SPEC" in child.last_line
    assert child.reap() == 2


def test_a_line_is_given_out_whole() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    child = Child(b"", subprocess.Popen(["true"]), -1, reading)
    os.write(writing, b"one\ntw")
    assert child.read_lines() == ["one"]
    os.write(writing, b"o\n\n")
    assert child.read_lines() == ["two", ""]
    assert child.last_line == "two"
    os.write(writing, b"\xff unfinished")
    os.close(writing)
    assert child.read_lines() == ["� unfinished"]
    child.process.wait()
    os.close(reading)


@pytest.mark.parametrize("program", [["yes"], ["sh", "-c", r"while :; do printf '%065536d\r'; done"]])
def test_a_flood_is_read_a_piece_at_a_time(program: list[str]) -> None:
    """Of short lines, and of one that never ends: whoever reads has more to do."""
    with subprocess.Popen(program, stdout=subprocess.PIPE) as flood:
        assert flood.stdout is not None
        child = Child(b"", flood, -1, flood.stdout.fileno())
        os.set_blocking(child.log, False)
        for _ in range(20):
            wait_readable(child.log)
            assert len("".join(child.read_lines())) + len(child.partial) <= 4 * READ_BYTES
        assert child.last_line
        flood.kill()


@pytest.mark.parametrize(
    ("status", "num_oom_kills", "cause"),
    [
        (0, 0, "drained"),
        (1, 0, "crash"),
        (2, 0, "crash"),
        (-signal.SIGSEGV, 0, "crash"),
        (-signal.SIGABRT, 0, "crash"),
        (-signal.SIGBUS, 0, "crash"),
        (-signal.SIGKILL, 0, "killed"),
        (-signal.SIGKILL, 1, "crash"),
        (-signal.SIGTERM, 1, "killed"),
        (-signal.SIGRTMIN - 1, 0, "crash"),
    ],
)
def test_causes(status: int, num_oom_kills: int, cause: str) -> None:
    assert cause_of_death(status, "last words", num_oom_kills)[0] == cause


def test_one_that_cannot_start_is_told_by_its_own_words_alone() -> None:
    assert cause_of_death(2, "there is no model", 0) == ("crash", "there is no model")
    assert cause_of_death(1, "ValueError: x", 0) == ("crash", "exit status 1: ValueError: x")


PARENT = """
import os, signal, subprocess, sys
from tokenyard.scripts.children import end_strays
from tokenyard.scripts.tie import adopt_orphans
adopt_orphans()
middle = subprocess.Popen([sys.executable, "-c", '''
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print(child.pid, flush=True)
child.wait()
'''], stdout=subprocess.PIPE)
print(middle.stdout.readline().decode().strip(), flush=True)
middle.kill()
middle.wait()
end_strays(set())
print("ended", flush=True)
"""


def test_a_grandchild_in_a_session_of_its_own_is_ended() -> None:
    parent = subprocess.Popen([sys.executable, "-W", "ignore", "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    with parent.stdout:
        grandchild = int(parent.stdout.readline())
        assert parent.stdout.readline() == "ended\n"
    assert not psutil.pid_exists(grandchild)
    parent.wait()


TIED = """
import os, subprocess, sys
os.environ["TOKENYARD_PARENT_PID"] = str(os.getpid())
child = subprocess.Popen([sys.executable, "-c", '''
from tokenyard.scripts.tie import tie_to_parent
import os, time
tie_to_parent()
assert "TOKENYARD_PARENT_PID" not in os.environ
print(os.getpid(), flush=True)
time.sleep(60)
'''])
child.wait()
"""


def test_a_tied_child_dies_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", TIED], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child's end", 3)


def test_one_whose_parent_is_gone_already_ends_at_once() -> None:
    environment = {**os.environ, "TOKENYARD_PARENT_PID": "1"}
    line = [sys.executable, "-c", "from tokenyard.scripts.tie import tie_to_parent; tie_to_parent(); print('lives')"]
    assert subprocess.run(line, env=environment, capture_output=True).stdout == b""


HEAVY = """
import os, resource, time
from tokenyard.scripts.tie import hang_bells
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
hang_bells()
memory = bytearray(os.urandom(1 << 20)) * 1024
print(flush=True)
time.sleep(60)
"""
"""Touches a gigabyte, which takes the kernel some milliseconds to free."""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSEGV])
def test_a_bell_rings_before_the_kernel_has_taken_the_process_down(end: signal.Signals) -> None:
    bells = [os.pipe(), os.pipe()]
    held = tuple(writing for _, writing in bells)
    line = [sys.executable, "-c", HEAVY]
    environment = {**os.environ, BELLS: ",".join(map(str, held))}
    with subprocess.Popen(line, env=environment, pass_fds=held, stdout=subprocess.PIPE) as process:
        for writing in held:
            os.close(writing)
        assert process.stdout is not None
        process.stdout.readline()
        death = os.pidfd_open(process.pid)
        process.send_signal(end)
        assert select.select([reading for reading, _ in bells], [], [], 10)[0]
        rung_s = time.monotonic()
        assert select.select([death], [], [], 10)[0]
        assert time.monotonic() - rung_s > 0.001, "descriptors that are shared close together with the process"
    for descriptor in (death, *(reading for reading, _ in bells)):
        os.close(descriptor)


def test_a_child_with_bells_lets_its_end_be_heard_once() -> None:
    child = start_child(["version"], b"", has_bells=True)
    wait_until(lambda: select.select(child.bells, [], [], 0)[0], "a bell", 20)
    assert child.rings(child.bells)
    assert not child.rings(child.bells)
    wait_readable(child.death)
    assert child.reap() == 0
