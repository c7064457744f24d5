"""A local process that says at every door of a pool what no peer says: damaged, made up, forged, oversized."""

import os
import socket as sockets
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args

import zmq
from contract import LEAVES, Leaves, values
from hypothesis import strategies as st
from switch import card, secret

from tokenyard.broker import wire
from tokenyard.broker.codec import encode, pack_ids
from tokenyard.broker.config import MAX_MESSAGE_BYTES, RunDir
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.identity import Identity
from tokenyard.broker.ranges import Inc, MaybeInc, Natural, PackedIds, Secret, TokenId
from tokenyard.broker.sockets import dial
from tokenyard.broker.wire import (
    PROTOCOL,
    TAGS,
    Ack,
    Adapter,
    AgentHello,
    AgentToBroker,
    Card,
    Delta,
    FrontHello,
    FrontToBroker,
    Message,
    Placed,
    Spawned,
    Status,
    TokensDown,
    TokensUp,
    WorkerHello,
    WorkerToBroker,
)

DEMO = Path(wire.__file__).parents[1] / "workers" / "demo_model"
LISTENED, WORKER, FRONT, AGENT, NOBODY = [Identity.of(secret(name)) for name in ("a", "b", "c", "d", "e")]
"""The first is a worker that fronts come and listen to; each of the next three has a connection."""
SECRETS = {one.inc: one.secret for one in (LISTENED, WORKER, FRONT, AGENT, NOBODY)}
FITTING: dict[str, list[type[Any]]] = {
    "front": [kind for kind in get_args(FrontToBroker) if "Adapter" not in kind.__name__],
    "work": list(get_args(WorkerToBroker)),
    "agent": list(get_args(AgentToBroker)),
    "tokens": list(get_args(TokensUp)),
    "link": list(get_args(TokensDown)),
}
"""By door, what a peer says there. Left out is what any local process may ask for, and would get."""
DOORS = [*FITTING, "raw", "http"]
DAMAGES = ["none", "none", "none", "bits", "cut", "longer", "frames", "no frame", "garbage", "other version"]
HTTP = (
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 44\r\n"
    b'connection: close\r\n\r\n{"model":"tokenyard-demo","max_tokens":1,"p":0}'
)
GREETING = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + bytes(48)
"""ZMTP 3.0's, after which frames are read (ZeroMQ RFC 23)."""
SEND_MS = 1000


class Blow(NamedTuple):
    """One message, or bytes, for one door."""

    door: str
    frames: list[bytes]
    is_fresh: bool = False
    """By a connection of its own, which ends after it."""


def leaves_for(model: str, incs: list[bytes]) -> Leaves:
    """Values that peers really send, so that messages come past the first check."""
    names = [
        model,
        "intruder",
        "",
        "ready",
        "loading",
        "draining",
        "generate",
        "score",
        "embed",
        "json_schema",
        "regex",
    ]
    known = LEAVES | {
        str: st.sampled_from(names) | st.text(max_size=9),
        Inc: st.sampled_from(incs) | st.binary(min_size=8, max_size=8),
        MaybeInc: st.just(b"") | st.sampled_from(list(SECRETS)),
        Secret: st.just(b"") | st.sampled_from(list(SECRETS.values())),
        Natural: st.sampled_from([0, 1, 1, 1, 2, 3, 100, 2**31, 2**63 - 1]),
        TokenId: st.integers(0, 2047),
        PackedIds: st.lists(st.integers(0, 2047), max_size=20).map(pack_ids) | st.just(pack_ids([5, 2048])),
    }
    sources = st.sampled_from([str(DEMO), "/nowhere"])  # not of the Hub, which would be asked for it
    others = st.lists(
        st.sampled_from(["intruder", "other", "third"]), min_size=1, max_size=2
    )  # who is let in may serve any model
    known |= {Card: st.builds(Card._replace, values(Card, known), source=sources, names=others)}
    known |= {Adapter: st.builds(Adapter._replace, values(Adapter, known), source=st.just("/nowhere"))}
    jobs = st.sampled_from([0, 2**40, 2**63 - 1])  # not one that may run here: who may send deltas at all may send any
    return known | {Delta: st.builds(Delta._replace, values(Delta, known), job=jobs)}


def blows(model: str, victims: list[bytes], key: str) -> st.SearchStrategy[Blow]:
    """Half of the messages are such as the door is for, half any; some name `victims`, who live here, and are said with
    this key.
    """
    incs = list(SECRETS)
    own, all_kinds = leaves_for(model, incs), leaves_for(model, [*incs, *victims])
    likely = LIKELY | {"model": st.sampled_from([model, model, "intruder", ""]), "key": st.sampled_from([key, key, ""])}
    of_kind = {
        # An agent may claim a worker that has none, as here, and then say that it has ended.
        kind: values(kind, own if kind in (AgentHello, Spawned) else all_kinds)
        for kind in TAGS.values()
        if kind.__name__ not in CONTROLS
    }

    @st.composite
    def blow(draw: st.DrawFn) -> Blow:
        door, is_fresh = draw(st.sampled_from(DOORS)), draw(st.integers(0, 4)) == 0
        if door == "raw":
            garbage = draw(st.binary(max_size=80))
            return Blow(door, [draw(st.sampled_from([b"", GREETING])) + garbage])
        if door == "http":
            return Blow(door, [damaged(draw, HTTP, draw(st.sampled_from(["bits", "cut", "longer", "garbage"])))[0]])
        kinds = FITTING[door] if draw(st.booleans()) else list(of_kind)
        message = draw(of_kind[draw(st.sampled_from([kind for kind in kinds if kind in of_kind]))])
        damage = draw(st.sampled_from(DAMAGES))
        message = message._replace(**{name: draw(likely[name]) for name in message._fields if name in likely})
        if "secret" in message._fields and draw(st.integers(0, 3)):
            inc = message.front if hasattr(message, "front") else message.inc
            message = message._replace(secret=SECRETS.get(inc, message.secret))
        if damage == "other version" and "protocol" in message._fields:
            message = message._replace(protocol=PROTOCOL + 1)
        return Blow(door, damaged(draw, encode(message), damage), is_fresh)

    return blow()


LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "protocol": st.just(PROTOCOL),
    "attempt": st.sampled_from([1, 1, 2, 2**40]),
    "crashes": st.sampled_from([0, 0, 1, 3]),
    "version": st.sampled_from(["", "", "0"]),
    "state": st.sampled_from(["ready", "ready", "loading", "draining", "mad"]),
    "kind": st.sampled_from(["generate", "generate", "score", "embed", "mad"]),
    "endpoint": st.sampled_from(
        ["ipc:///nowhere/w.sock", "ipc://" + "x" * 200, "ipc://", "tcp://127.0.0.1:9", "tcp://far:9"]
    ),
}
"""By field: what comes past the first look, so that the second is tried, too."""
CONTROLS = ("DrainWorker", "KillWorker", "UnloadModel", "AddAdapter", "RemoveAdapter")


def damaged(draw: st.DrawFn, frame: bytes, damage: str) -> list[bytes]:
    """What goes over the wire in place of a frame."""
    if damage == "bits":
        changed = bytearray(frame)
        for _ in range(draw(st.integers(1, 3))):
            changed[draw(st.integers(0, len(frame) - 1))] ^= 1 << draw(st.integers(0, 7))
        return [bytes(changed)]
    if damage == "cut":
        return [frame[: draw(st.integers(0, len(frame) - 1))]]
    if damage == "longer":
        return [frame + draw(st.binary(min_size=1, max_size=9))]
    if damage == "frames":
        return draw(st.sampled_from([[frame, frame], [b"", frame], [frame, b""], [frame] * 40]))
    if damage == "no frame":
        return [b""]
    if damage == "garbage":
        return [draw(st.binary(max_size=60))]
    return [frame]


def certain(front: bytes, worker: bytes) -> list[Blow]:
    """What is to be among the blows: what libzmq hangs up on, what once broke something, each kind of refusal."""
    unreachable = WorkerHello(
        PROTOCOL, NOBODY.inc, 1, "ready", "ipc://" + "x" * 200, 1, card("other"), [], secret=NOBODY.secret
    )
    said: list[tuple[str, Message]] = [
        ("work", unreachable),
        ("front", FrontHello(PROTOCOL + 1, NOBODY.inc, 1, [], NOBODY.secret)),
        ("front", FrontHello(PROTOCOL, front, 1, [], NOBODY.secret)),
        ("tokens", Ack(front, worker, 1, NOBODY.secret)),
    ]
    return [
        *(Blow(door, [bytes(MAX_MESSAGE_BYTES + 1)], is_fresh=True) for door in ("front", "work", "tokens")),
        *(Blow(door, [b"\x91" * 1020 + b"\x01\x00"]) for door in FITTING),  # nested deeply, and a byte too long
        *(Blow(door, [encode(Placed(1, 1, worker))]) for door in FITTING),
        *(Blow(door, [encode(message)], is_fresh=True) for door, message in said),
    ]


class Intruder:
    """Its connections; `close` ends them all."""

    def __init__(self, address: BrokerAddress, worker: tuple[str, str], front: bytes, port: int) -> None:
        """`worker`: its endpoint and key; `front`: the incarnation of one that is to come and listen."""
        self._front = front
        self._port = port
        self._address = address
        self._context = zmq.Context()
        tokens, self._worker_key = worker
        self._endpoints = {"front": address.front, "work": address.work, "agent": address.work, "tokens": tokens}
        self._sockets: dict[str, zmq.Socket[bytes]] = {"link": self._context.socket(zmq.XPUB)}
        self.key = address.keys.public if address.keys else ""
        """Of the box that it is on."""
        own = RunDir(Path(str(address))).tokens_endpoint(LISTENED.inc)
        if address.keys:
            self._sockets["link"].curve_server, self._sockets["link"].curve_secretkey = True, address.keys.secret
            own = "tcp://127.0.0.1:*"
        self._sockets["link"].bind(own)
        self._own = self._sockets["link"].last_endpoint.decode().rstrip("\0")
        for door in self._endpoints:
            self._sockets[door] = self._connect(door)
        self._control = self._connect("front")
        self._listened = self._connect("work")
        self._num_asked = 0

    def introduce(self) -> None:
        """Claim to be somebody on each connection; to be said every second, as what follows may end it."""
        pid = os.getpid()
        own = card("intruder", source=str(DEMO), commit="none")
        listened = WorkerHello(PROTOCOL, LISTENED.inc, pid, "ready", self._own, 1, own, [], "intruder", self.key)
        loading = WorkerHello(PROTOCOL, WORKER.inc, pid, "loading", "ipc:///no", 4, None, [], "intruder", self.key)
        hellos: dict[zmq.Socket[bytes], Message] = {
            self._listened: listened._replace(secret=LISTENED.secret),
            self._sockets["work"]: loading._replace(secret=WORKER.secret),
            self._sockets["front"]: FrontHello(PROTOCOL, FRONT.inc, pid, [], FRONT.secret),
            self._sockets["agent"]: AgentHello(PROTOCOL, AGENT.inc, pid, ["cpu"], [], slots=[2], secret=AGENT.secret),
        }
        for socket, hello in hellos.items():
            with suppress(zmq.Again):
                socket.send(encode(hello))

    def wait_for_the_front(self, timeout_ms: int = 10_000) -> None:
        """Until it listens to the worker that is none."""
        assert self._sockets["link"].poll(timeout_ms), "the front does not listen to a worker that the broker took"

    def strike(self, blow: Blow) -> None:
        if blow.door in ("raw", "http"):
            return self._throw(blow.door, blow.frames[0])
        frames = blow.frames
        if blow.door == "link":
            frames = [self._front + frames[0], *frames[1:]]
        socket = self._connect(blow.door) if blow.is_fresh and blow.door != "link" else self._sockets[blow.door]
        with suppress(zmq.Again):  # hung up on for an oversized one, and not yet here again
            socket.send_multipart(frames)
        if socket is not self._sockets[blow.door]:
            socket.close(linger=50)
        while self._sockets["link"].poll(0):  # acks, resumes
            self._sockets["link"].recv()
        return None

    def _throw(self, door: str, data: bytes) -> None:
        """Bytes, past libzmq."""
        tcp = f"tcp://127.0.0.1:{self._port}"
        for endpoint in self._endpoints.values() if door == "raw" else [tcp]:
            kind, _, place = endpoint.partition("://")
            host, _, port = place.rpartition(":")
            with sockets.socket(sockets.AF_UNIX if kind == "ipc" else sockets.AF_INET) as socket, suppress(OSError):
                socket.settimeout(SEND_MS / 1000)
                socket.connect(place if kind == "ipc" else (host, int(port)))
                socket.sendall(data)

    def ask_status(self) -> None:
        """Return once the broker has answered: what was said before it has been read."""
        self._num_asked += 1
        self._control.send(encode(Status(self._num_asked, [])))
        assert self._control.poll(10_000), "the broker answers nobody"
        self._control.recv()

    def _connect(self, door: str) -> "zmq.Socket[bytes]":
        is_worker = door == "tokens"
        server_key = self._worker_key if is_worker else self._address.server_key
        kind = zmq.XSUB if is_worker else zmq.DEALER
        socket = dial(self._context, kind, self._endpoints[door], self._address.keys, server_key)
        socket.sndtimeo = SEND_MS
        return socket

    def close(self) -> None:
        self._context.destroy(linger=0)
