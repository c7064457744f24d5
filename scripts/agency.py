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
    """End it at once."""

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

        self._troubles: list[str] = []
        self._verdicts: dict[bytes, str] = {}
        """Why the broker had a living worker killed, where that counts as its crash."""

    def hello(self) -> Send:
        workers = sorted(self._living)
        restarts = [self._living[inc] for inc in workers]
        return Send(
            AgentHello(PROTOCOL, self.inc, self._pid, self._devices, workers, restarts, troubles=self._troubles)
        )

    def started(self, inc: bytes, num_before: int = 0) -> list[Action]:
        """A worker's life has begun, after others in its place: the broker hears of it before its own hello."""
        self._living[inc] = num_before
        return [self.hello()]

    def troubled(self, lines: list[str]) -> list[Action]:
        """What people should know of the processes here, as of now."""
        if lines == self._troubles:
            return []
        self._troubles = lines
        return [self.hello()]

    def verdict(self, inc: bytes) -> str:
        """Why the broker has given this worker up; empty where it has not."""
        return self._verdicts.get(inc, "")

    def ended(self, inc: bytes, cause: str, words: str) -> list[Action]:
        """A worker's life has ended."""
        self._living.pop(inc, None)
        self._verdicts.pop(inc, None)
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
            case Kill(inc, words):
                if inc not in self._living:
                    return []
                if words:
                    self._verdicts[inc] = words
                return [KillWorker(inc)]
            case Refused(words):
                return [Say(f"the broker refuses this agent: {words}")]
            case _:
                return [Say(f"the broker sent a {type(message).__name__}, which is not for an agent")]
