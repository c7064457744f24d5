"""The broker's door on tcp, as a real process has it: who comes in, who does not, and who is who behind it."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from strangers import callers
from switch import card, inc, secret, submit
from yard import free_port, wait_until

from tokenyard.broker.codec import decode, encode
from tokenyard.broker.curve import Keys, read_keys
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.line import BrokerLine
from tokenyard.broker.wire import (
    PROTOCOL,
    Allowed,
    Answer,
    FrontHello,
    Message,
    Placed,
    Refused,
    Start,
    Status,
    Welcome,
    WorkerDown,
    WorkerHello,
    WorkerJob,
    WorkerUp,
)
from tokenyard.scripts.pool_keys import make_keys

WAIT_S = 20.0
NOTHING_S = 1.0
"""So long a stranger waits for an answer that must not come: friends get theirs in some 10 ms."""


class Box:
    """A process's line to the broker, with one box's keys."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, folder: Path | None) -> None:
        self.said: list[str] = []
        self.address = BrokerAddress.of(Path("/nowhere"), endpoint, folder)
        self.line = BrokerLine(context, self.address, endpoint, self.said.append)

    @property
    def keys(self) -> Keys:
        assert self.address.keys
        return self.address.keys

    def tend(self) -> bool:
        return self.line.tend(time.monotonic())

    def say(self, message: Message) -> None:
        wait_until(lambda: self.line.socket.poll(10, zmq.POLLOUT) or self.tend(), "a connection", WAIT_S)
        self.line.socket.send(encode(message))

    def hear(self, *kinds: type) -> Message:
        """The next message of these kinds."""
        ends_at = time.monotonic() + WAIT_S
        while time.monotonic() < ends_at:
            self.tend()
            if self.line.socket.poll(50):
                message = decode(self.line.socket.recv())
                if isinstance(message, kinds):
                    return message
        raise AssertionError(f"no {kinds}")


class Guarded:
    """A broker with a door on tcp."""

    def __init__(self, folder: Path) -> None:
        self.keys = folder / "keys"
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.context = zmq.Context()
        self._folder = folder
        self.boxes: list[Box] = []
        make_keys(self.keys, ["box2", "box3"])
        self.start()

    def start(self) -> None:
        line = ["broker", "--run-dir", str(self._folder / "run"), "--bind", self.endpoint, "--keys", str(self.keys)]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "tokenyard.scripts.cli", *line], stderr=log)

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def box(self, name: str) -> Box:
        folder = self.keys if name == "broker" else self.keys / "for" / name
        self.boxes.append(Box(self.context, self.endpoint, folder))
        return self.boxes[-1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for box in self.boxes:
            box.line.close()
        self.context.destroy(linger=0)


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    with tempfile.TemporaryDirectory(prefix="tcp-") as folder:
        guarded = Guarded(Path(folder))
        yield guarded
        guarded.close()


def hello_of(worker: Box, key: str | None = None, name: str = "worker", *jobs: WorkerJob) -> WorkerHello:
    shown = worker.keys.public if key is None else key
    return WorkerHello(
        PROTOCOL, inc(name), 1, "ready", "tcp://127.0.0.1:9", 4, card(), list(jobs), "m", shown, secret(name)
    )


def front_of(guarded: Guarded, box: str = "box3", name: str = "front") -> Box:
    """Connected and welcomed."""
    front = guarded.box(box)
    front.say(FrontHello(PROTOCOL, inc(name), 1, [], secret(name)))
    front.hear(Welcome)
    return front


def test_boxes_work_together_and_a_worker_learns_whom_it_may_let_in(guarded: Guarded) -> None:
    front, worker = front_of(guarded), guarded.box("box2")
    worker.say(hello_of(worker))
    assert worker.hear(Allowed) == Allowed(sorted(read_keys(path).public for path in (
        guarded.keys, guarded.keys / "for" / "box2", guarded.keys / "for" / "box3"
    )))  # fmt: skip
    up = front.hear(WorkerUp)
    assert isinstance(up, WorkerUp)
    assert up.worker.key == worker.keys.public
    front.say(submit(1))
    assert front.hear(Placed) == Placed(1, 1, inc("worker"))
    make_keys(guarded.keys, ["box4"])
    told = worker.hear(Allowed)
    assert isinstance(told, Allowed)
    assert read_keys(guarded.keys / "for" / "box4").public in told.keys


def test_the_end_of_a_connection_is_the_end_of_its_peer(guarded: Guarded) -> None:
    front, worker = front_of(guarded), guarded.box("box2")
    worker.say(hello_of(worker))
    front.hear(WorkerUp)
    ended_s = time.monotonic()
    guarded.boxes.remove(worker)
    worker.line.close()
    front.hear(WorkerDown)
    assert time.monotonic() - ended_s < 2, "not by its silence"


def test_strangers_get_nothing_and_are_told_of_once(guarded: Guarded, tmp_path: Path) -> None:
    front = front_of(guarded)
    sockets = callers(tmp_path / "keys", front.keys.broker, guarded.context, zmq.DEALER, guarded.endpoint)
    for socket in sockets.values():
        socket.send(encode(Status(1)))
    time.sleep(NOTHING_S)
    for stranger, socket in sockets.items():
        assert not socket.poll(0), stranger
        socket.close()
    front.say(Status(1))
    front.hear(Answer)
    foreign = read_keys(tmp_path / "keys").public
    assert f"refused 127.0.0.1: its key {foreign} is not in the list" in guarded.log()
    assert guarded.log().count("a handshake failed at ") == 1, guarded.log()
    assert "Traceback" not in guarded.log()


def test_a_worker_is_not_known_by_another_boxes_key(guarded: Guarded) -> None:
    """It would have fronts send their acks, and trust the tokens, of whoever has that key."""
    front, worker = front_of(guarded), guarded.box("box2")
    worker.say(hello_of(worker, front.keys.public))
    worker.say(hello_of(worker, ""))
    wait_until(lambda: "must be known by the key that it came with" in guarded.log(), "the refusal", WAIT_S)
    worker.say(hello_of(worker))
    front.hear(WorkerUp)


def test_a_box_speaks_for_no_process_of_another(guarded: Guarded) -> None:
    front, worker, thief = front_of(guarded), guarded.box("box2"), guarded.box("box3")
    worker.say(hello_of(worker))
    front.hear(WorkerUp)
    for lie in (hello_of(thief), FrontHello(PROTOCOL, inc("front"), 1, [])):
        thief.say(lie._replace(secret=b""))
        assert isinstance(thief.hear(Refused), Refused)
    front.say(submit(1))
    assert front.hear(Placed, WorkerDown, WorkerUp) == Placed(1, 1, inc("worker"))
    worker.hear(Start)
    front.say(Status(1))
    answer = front.hear(Answer)
    assert isinstance(answer, Answer)
    assert answer.body["broker"]["refused"] == {"identity": 2}


def test_a_key_taken_back_ends_its_peers_and_one_given_again_brings_them_back(guarded: Guarded) -> None:
    front, worker = front_of(guarded), guarded.box("box2")
    worker.say(hello_of(worker))
    front.hear(WorkerUp)
    listed = guarded.keys / "allowed" / "box2.key"
    content = listed.read_bytes()
    listed.unlink()
    front.hear(WorkerDown)
    assert worker.hear(Refused) == Refused("its key is no longer in the list of those let in")
    worker.say(hello_of(worker))
    wait_until(lambda: "no longer in the list of those let in" in guarded.log(), "the refusal", WAIT_S)
    listed.write_bytes(content)
    wait_until(lambda: (worker.say(hello_of(worker)), front.line.socket.poll(50))[1], "its return", WAIT_S)
    front.hear(WorkerUp)


def test_who_is_refused_says_why_and_comes_in_once_it_may(guarded: Guarded) -> None:
    front = guarded.box("box3")
    listed = guarded.keys / "allowed" / "box3.key"
    content = listed.read_bytes()
    listed.unlink()
    late = guarded.box("box3")
    wait_until(lambda: late.tend() or late.said, "words", WAIT_S)
    assert late.said == [f"no broker: {guarded.endpoint} does not let this box in: its key is not in the broker's list"]
    listed.write_bytes(content)
    wait_until(lambda: late.tend(), "a handshake", WAIT_S)
    assert late.line.trouble == ""
    assert front.said == []


@pytest.mark.parametrize(
    ("has_key", "words"), [(False, "wants a key: give --keys DIR"), (True, "hangs up in the handshake")]
)
def test_other_mistakes_of_keys_are_told_too(guarded: Guarded, tmp_path: Path, has_key: bool, words: str) -> None:
    make_keys(tmp_path / "keys", [])
    wait_until(lambda: "listening on" in guarded.log(), "the broker", WAIT_S)
    lost = Box(guarded.context, guarded.endpoint, tmp_path / "keys" if has_key else None)
    guarded.boxes.append(lost)
    wait_until(lambda: lost.tend() or lost.said, "words", WAIT_S)
    assert words in lost.said[0]
    time.sleep(0.5)
    lost.tend()
    assert len(lost.said) == 1


def test_a_new_broker_finds_its_peers_again(guarded: Guarded) -> None:
    front, worker = front_of(guarded), guarded.box("box2")
    worker.say(hello_of(worker))
    front.hear(WorkerUp)
    guarded.process.kill()
    guarded.process.wait()
    guarded.start()
    for box, hello in ((front, FrontHello(PROTOCOL, inc("front"), 1, [], secret("front"))), (worker, hello_of(worker))):
        wait_until(box.tend, "a handshake", WAIT_S)
        box.say(hello)
    front.hear(WorkerUp)


def test_a_new_broker_waits_for_the_workers_that_the_last_one_knew(guarded: Guarded) -> None:
    front, worker, eager = front_of(guarded), guarded.box("box2"), guarded.box("box2")
    worker.say(hello_of(worker))
    front.hear(WorkerUp)
    noted = guarded.keys.parent / "run" / "workers-on-tcp"
    wait_until(lambda: noted.exists() and noted.read_text() == f"{inc('worker').hex()}\n", "a note", WAIT_S)
    guarded.process.kill()
    guarded.process.wait()
    guarded.start()
    for box in (front, worker, eager):
        wait_until(box.tend, "a handshake", WAIT_S)
    front.say(FrontHello(PROTOCOL, inc("front"), 1, [], secret("front")))
    eager.say(hello_of(eager, None, "eager"))
    front.hear(WorkerUp)
    front.say(submit(1))
    worker.say(hello_of(worker, None, "worker", WorkerJob(inc("front"), 1, 1)))
    assert front.hear(Placed) == Placed(1, 1, inc("worker"))


def test_a_taken_port_is_told(guarded: Guarded, tmp_path: Path) -> None:
    wait_until(lambda: "listening on" in guarded.log(), "the broker", WAIT_S)
    line = ["broker", "--run-dir", str(guarded.keys.parent / "other"), "--bind", guarded.endpoint]
    second = subprocess.run(
        [sys.executable, "-m", "tokenyard.scripts.cli", *line], capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert f"cannot listen on {guarded.endpoint}: it is taken" in second.stderr


# The rule of all doors


@pytest.mark.parametrize(
    "line",
    [
        ["broker", "--bind", "tcp://0.0.0.0:7420"],
        ["worker", "demo", "--broker", "tcp://box1:7420"],
        ["worker", "demo", "--broker", "tcp://127.0.0.1:9", "--bind", "tcp://0.0.0.0:*", "--advertise", "127.0.0.1"],
        ["front", "--broker", "tcp://10.1.2.3:7420"],
        ["agent", "--broker", "tcp://10.1.2.3:7420"],
        ["serve", "--bind", "tcp://0.0.0.0:7420"],
        ["serve", "--workers-bind", "tcp://*:7500-7510"],
        ["status", "--broker", "tcp://10.1.2.3:7420"],
        ["kill", "ab", "--broker", "tcp://10.1.2.3:7420"],
    ],
    ids=" ".join,
)
def test_plain_tcp_off_loopback_does_not_start(line: list[str], tmp_path: Path) -> None:
    """Every process, with status 2 and words."""
    run_dir = ["--run-dir", tempfile.mkdtemp(prefix="plain-")]
    done = subprocess.run(
        [sys.executable, "-m", "tokenyard.scripts.cli", *line, *run_dir],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    shutil.rmtree(run_dir[1])
    assert done.returncode == 2, done.stderr
    assert "what leaves this machine must be encrypted: give --keys DIR" in done.stderr
    assert done.stderr.count("\n") == 1
