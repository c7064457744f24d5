"""A broker core with a clock of its own and a mailbox for each peer; invariants are checked after every event."""

from collections import defaultdict
from itertools import count
from typing import Any

from tokenyard.broker.config import GRACE_S, SILENCE_S
from tokenyard.broker.core import SWEEP_S, Core
from tokenyard.broker.identity import SECRET_BYTES, Identity
from tokenyard.broker.params import Params
from tokenyard.broker.wire import (
    PROTOCOL,
    AgentHello,
    Beat,
    Card,
    FrontHello,
    FrontJob,
    Message,
    Ping,
    Submit,
    WorkerHello,
    WorkerJob,
)

EPOCH = b"epoch..."
MODEL = "a-model"


def card(model: str = MODEL, **fields: Any) -> Card:
    known = Card([model], "source", "commit", 4096, 4096, 16, "paged", "float32", "cpu", 512, [1])
    return known._replace(**fields)


NAMES: dict[bytes, str] = {}
"""Of incarnations."""


def secret(name: str) -> bytes:
    return name.encode().ljust(SECRET_BYTES, b".")


def inc(name: str) -> bytes:
    NAMES[found := Identity.of(secret(name)).inc] = name
    return found


def submit(job: int, attempt: int = 1, model: str = MODEL, **fields: Any) -> Submit:
    return Submit(job, attempt, model, "generate", b"\1\0\0\0", b"", Params(max_tokens=8), **fields)


def held(front: str, job: int, attempt: int = 1) -> WorkerJob:
    return WorkerJob(inc(front), job, attempt)


class Switch:
    """Peers are named by the string that also makes their incarnation."""

    def __init__(self, in_grace: bool = False, **options: Any) -> None:
        self.now = 0.0
        self.core = Core(EPOCH, self.now, **options)
        self._mail: defaultdict[bytes, list[Message]] = defaultdict(list)
        self._reqs = count(1)
        if not in_grace:
            self.wait(GRACE_S + 0.01)

    # events

    def say(self, peer: str, message: Message) -> list[Message]:
        """Deliver a message; returns what this led to for its sender, whose older mail is thrown away."""
        self.mail(peer)
        self.tell(peer, message)
        return self.mail(peer)

    def tell(self, peer: str, message: Message) -> None:
        """Deliver a message."""
        self._post(self.core.handle(peer.encode(), message, self.now))

    def gone(self, peer: str) -> None:
        self._post(self.core.gone(peer.encode(), self.now))

    def wait(self, time_s: float, alive: tuple[str, ...] = ()) -> None:
        """Let time pass in steps as the process does; `alive` fronts and agents ping meanwhile."""
        end = self.now + time_s
        while self.now < end:
            self.now = min(end, max(self.core.next_tick_s, self.now))
            for peer in alive:
                self._post(self.core.handle(peer.encode(), Ping(inc(peer)), self.now))
            self._post(self.core.tick(self.now))

    def mail(self, peer: str) -> list[Message]:
        """What has come for this peer since it last looked."""
        return self._mail.pop(peer.encode(), [])

    def _post(self, actions: list[tuple[bytes, Message]]) -> None:
        for peer, message in actions:
            self._mail[peer].append(message)
        self.core.check()

    # common peers

    def front(self, name: str = "front", *claims: FrontJob, peer: str = "") -> list[Message]:
        return self.say(peer or name, FrontHello(PROTOCOL, inc(name), 1, list(claims), secret(name)))

    def worker(
        self, name: str = "worker", *jobs: WorkerJob, capacity: int = 4, state: str = "ready", model: str = MODEL,
        peer: str = "", **fields: Any,
    ) -> list[Message]:  # fmt: skip
        """`fields` are of its card."""
        return self.say(peer or name, self.hello(name, *jobs, capacity=capacity, state=state, model=model, **fields))

    @staticmethod
    def hello(
        name: str, *jobs: WorkerJob, capacity: int = 4, state: str = "ready", model: str = MODEL, **fields: Any
    ) -> WorkerHello:
        known = None if state == "loading" else card(model, **fields)
        mine = (f"ipc://{name}", capacity, known, list(jobs), name, "", secret(name))
        return WorkerHello(PROTOCOL, inc(name), 2, state, *mine)

    def agent(self, *workers: str, name: str = "agent") -> list[Message]:
        incs, proofs = [inc(worker) for worker in workers], [secret(worker) for worker in workers]
        hello = AgentHello(PROTOCOL, inc(name), 3, ["cpu"], incs, secret=secret(name), proofs=proofs)
        return self.say(name, hello)

    def beat(self, name: str, *jobs: WorkerJob, patience_ms: int = 0) -> list[Message]:
        return self.say(name, Beat(inc(name), "ready", 1, patience_ms, list(jobs)))

    def go_silent(self, *alive: str) -> None:
        """Let so much time pass that all but the living are declared dead."""
        self.wait(SILENCE_S + 2 * SWEEP_S, alive)
