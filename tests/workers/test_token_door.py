"""Where a worker's tokens are to be had: what is bound, what fronts are told, and who is let in."""

import socket as sockets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from yard import free_port

from tokenyard.broker.config import MAX_UPWARD_BYTES, TOKENS_HWM, WINDOW
from tokenyard.broker.curve import Keys, read_keys
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import SetupError
from tokenyard.broker.sockets import Context, Socket, dial
from tokenyard.scripts.pool_keys import make_keys
from tokenyard.workers.options import WorkerOptions
from tokenyard.workers.token_door import TokenDoor

INC = b"worker_1"
WAIT_S = 10.0


@pytest.fixture
def context() -> Iterator[Context]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


Opened = Callable[..., TokenDoor]


@pytest.fixture
def opened(context: Context, tmp_path: Path) -> Iterator[Opened]:
    """A door, by the options of `tokenyard worker`."""

    def open_door(**given: object) -> TokenDoor:
        options = WorkerOptions("demo", tmp_path, **given)  # type: ignore[arg-type]
        address = BrokerAddress.of(tmp_path, options.broker, options.keys)
        doors.append(TokenDoor(context, address, options, INC))
        return doors[-1]

    doors: list[TokenDoor] = []
    tmp_path.chmod(0o700)
    yield open_door
    context.destroy(linger=0)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Folders of three boxes."""
    make_keys(tmp_path / "keys", ["box2", "box3"])
    return tmp_path / "keys"


def tend_until(door: TokenDoor, condition: Callable[[], object]) -> None:
    """Do what the worker's loop does, until then."""
    ends_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends_at
        door.tend(dict.fromkeys(door.sources, 1), time.monotonic())
        time.sleep(0.005)


def subscribe(context: Context, door: TokenDoor, keys: Keys) -> Socket:
    socket = dial(context, zmq.XSUB, door.endpoint, keys, door.key)
    socket.send(b"\x01topic")
    return socket


def test_it_is_in_the_run_directory_unless_asked_otherwise(opened: Opened, tmp_path: Path) -> None:
    door = opened()
    path = tmp_path / f"w-{INC.hex()}.sock"
    assert (door.endpoint, door.key) == (f"ipc://{path}", "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    door.remove()
    assert not path.exists()


def test_what_a_front_does_not_read_is_not_kept_for_it_without_end(context: Context, opened: Opened) -> None:
    door = opened()
    with dial(context, zmq.XSUB, door.endpoint) as front:
        front.send(b"\x01topic")
        assert door.socket.recv() == b"\x01topic"
        for _ in range(8 * TOKENS_HWM):
            door.socket.send(b"topic" + bytes(1000), zmq.NOBLOCK)
        num_kept = 0
        while front.poll(200):
            front.recv()
            num_kept += 1
    # Here, there, and in the kernel between.
    assert WINDOW < num_kept < 3 * TOKENS_HWM


def test_what_goes_up_is_small(context: Context, opened: Opened) -> None:
    door = opened()
    with dial(context, zmq.XSUB, door.endpoint) as front:
        front.send(b"\x01topic")
        front.send(b"\x93" + bytes(MAX_UPWARD_BYTES))
        assert [door.socket.recv() for _ in range(2)] == [b"\x01topic", b"\x00topic"], "it is hung up on"


def test_who_is_cut_off_in_the_run_directory_comes_again(context: Context, opened: Opened) -> None:
    door = opened()
    with dial(context, zmq.XSUB, door.endpoint) as front:
        front.send(b"\x01topic")
        assert door.socket.recv() == b"\x01topic"
        for _ in range(3):
            door.bind_again()
            tend_until(door, lambda: (front.poll(0), door.socket.poll(0))[1])
            assert door.socket.recv() == b"\x01topic"
        door.socket.send(b"topic 1")
        assert front.recv() == b"topic 1"
    assert stat.S_IMODE(Path(door.endpoint.removeprefix("ipc://")).stat().st_mode) == 0o600


def test_with_a_broker_on_tcp_it_is_at_the_address_that_leads_there(opened: Opened) -> None:
    door = opened(broker="tcp://127.0.0.1:9")
    assert door.endpoint.startswith("tcp://127.0.0.1:")
    assert int(door.endpoint.rpartition(":")[2]) > 0


def test_a_range_gives_the_first_free_port(opened: Opened) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        door = opened(bind=f"tcp://127.0.0.1:{first}-{min(first + 9, 65535)}")
        assert first < int(door.endpoint.rpartition(":")[2]) <= first + 9
        with pytest.raises(SetupError, match=f"{first}: it is taken"):
            opened(bind=f"tcp://127.0.0.1:{first}")


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("tcp://127.0.0.1", "give it as tcp://HOST:PORT"),
        ("udp://127.0.0.1:7", "give it as tcp://HOST:PORT"),
        ("tcp://127.0.0.1:99999", "a port is a number"),
        ("tcp://127.0.0.1:9-8", "the range of ports is empty"),
        ("tcp://192.0.2.1:7500", "what leaves this machine must be encrypted"),
    ],
)
def test_what_cannot_be_bound_is_refused_with_words(opened: Opened, bind: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        opened(bind=bind)


def test_fronts_are_told_an_address_that_can_be_called(opened: Opened, keys: Path) -> None:
    with pytest.raises(SetupError, match="say with --advertise"):
        opened(bind="tcp://0.0.0.0:*", keys=keys)


@pytest.mark.parametrize(("advertise", "told"), [("box2.lan", "tcp://box2.lan:{}"), ("[::1]:70", "tcp://[::1]:70")])
def test_another_address_may_be_told(opened: Opened, advertise: str, told: str) -> None:
    port = free_port()
    assert opened(bind=f"tcp://127.0.0.1:{port}", advertise=advertise).endpoint == told.format(port)


def test_an_address_that_the_broker_cannot_have_is_told(opened: Opened, keys: Path) -> None:
    with pytest.raises(SetupError, match=r"--broker tcp://no\.such\.box\.invalid:7420"):
        opened(broker="tcp://no.such.box.invalid:7420", keys=keys / "for" / "box2")


def test_the_brokers_box_is_let_in_from_the_start_and_others_once_the_broker_says(
    context: Context, opened: Opened, keys: Path
) -> None:
    door = opened(bind="tcp://127.0.0.1:*", keys=keys / "for" / "box2")
    broker, box3 = read_keys(keys), read_keys(keys / "for" / "box3")
    assert door.key == read_keys(keys / "for" / "box2").public
    with subscribe(context, door, broker):
        tend_until(door, lambda: door.socket.poll(0))
        assert door.socket.recv() == b"\x01topic"
        with subscribe(context, door, box3) as late:
            tend_until(door, lambda: not late.poll(300))  # refused for now; the front comes again by itself
            assert not door.socket.poll(0)
            assert not door.allow([broker.public, box3.public]), "nobody need come again"
            tend_until(door, lambda: (late.poll(0), door.socket.poll(0))[1])
            assert door.socket.recv() == b"\x01topic"


def test_who_is_no_longer_allowed_is_cut_off_at_the_same_address(context: Context, opened: Opened, keys: Path) -> None:
    door = opened(bind="tcp://127.0.0.1:*", keys=keys / "for" / "box2")
    broker, box3 = read_keys(keys), read_keys(keys / "for" / "box3")
    door.allow([broker.public, box3.public])
    endpoint = door.endpoint
    with subscribe(context, door, broker) as friend, subscribe(context, door, box3) as foe:
        for _ in range(2):
            tend_until(door, lambda: door.socket.poll(0))
            door.socket.recv()
        door.socket.send(b"topic 1")
        assert (friend.recv(), foe.recv()) == (b"topic 1", b"topic 1")
        assert door.allow([broker.public])
        door.bind_again()
        assert door.endpoint == endpoint
        tend_until(door, lambda: (friend.poll(0), foe.poll(0), door.socket.poll(0))[2])
        assert door.socket.recv() == b"\x01topic"
        door.socket.send(b"topic 2")
        assert friend.recv() == b"topic 2"
        assert not foe.poll(300)
