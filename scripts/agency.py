"""The agent's side of the broker's protocol as pure state: who lives here, what was asked for, what to answer.

This file knows no process and no socket: it says what to start and kill, supervisor.py does it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tokenyard.broker.wire import PROTOCOL, AgentHello, Exited, Kill, Message, Refused, Spawn, Spawned, Who

MAX_ANSWERS = 256
"""Far more Spawns than any operator repeats at once (broker/control.py forgets one after 60 s)."""


class Send(NamedTuple):
    """To the broker."""

    message: Message


class StartWorker(NamedTuple):
    """One more worker is wanted; `Agency.spawned` or `Agency.failed` must follow."""

    req: int
    model: str
    device: str


class KillWorker(NamedTuple):
    inc: bytes


class Say(NamedTuple):
    """In the log."""

    words: str


Action = Send | StartWorker | KillWorker | Say


class Agency:
    """What this agent has told and been told."""

    def __init__(self, inc: bytes, pid: int, devices: Sequence[str]) -> None:
        self.inc = inc
        self._pid = pid
        self._devices = list(devices)
        self._living: dict[bytes, int] = {}
        """How many lives the place of each living worker had before."""
        self._answers: dict[int, bytes] = {}
        """The worker that each of the latest Spawns led to: a repeat gets the same answer, also from a new broker."""

    def hello(self) -> Send:
        workers = sorted(self._living)
        restarts = [self._living[inc] for inc in workers]
        return Send(AgentHello(PROTOCOL, self.inc, self._pid, self._devices, workers, restarts))

    def started(self, inc: bytes, num_before: int = 0) -> list[Action]:
        """A worker's life has begun, after others in its place: the broker hears of it before its own hello."""
        self._living[inc] = num_before
        return [self.hello()]

    def ended(self, inc: bytes, cause: str, words: str) -> list[Action]:
        """A worker's life has ended."""
        self._living.pop(inc, None)
        return [Send(Exited(inc, cause, words))]

    def spawned(self, req: int, inc: bytes) -> list[Action]:
        """What a StartWorker led to."""
        self._answers[req] = inc
        if len(self._answers) > MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]
        return [Send(Spawned(req, inc))]

    def failed(self, req: int, inc: bytes, words: str) -> list[Action]:
        """A StartWorker was impossible: it is told as a life that ended at once, so that every Spawn is answered."""
        return [*self.spawned(req, inc), Send(Exited(inc, "crash", words))]

    def heard(self, message: Message) -> list[Action]:
        """A message from the broker."""
        match message:
            case Who():
                return [self.hello()]
            case Spawn(req, model, device):
                if inc := self._answers.get(req):
                    return [Send(Spawned(req, inc))]
                return [StartWorker(req, model, device)]
            case Kill(inc):
                return [KillWorker(inc)] if inc in self._living else []
            case Refused(words):
                return [Say(f"the broker refuses this agent: {words}")]
            case _:
                return [Say(f"the broker sent a {type(message).__name__}, which is not for an agent")]
