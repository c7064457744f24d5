"""The agent's side of the broker's protocol as pure state: who lives here, what was asked for, what to answer.

This file knows no process and no socket: it says what to start and kill, supervisor.py does it.
"""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from tokenyard.broker.identity import Identity
from tokenyard.broker.wire import (
    PROTOCOL,
    AgentHello,
    Dismiss,
    Dying,
    Exited,
    Kill,
    Message,
    Post,
    Refused,
    Retire,
    Retired,
    Spawn,
    Spawned,
    Who,
)

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
    on_demand: bool


class DismissPost(NamedTuple):
    """Let its worker finish and end for good; `Agency.ended` or `Agency.dropped` must follow."""

    number: int


class RetireWorker(NamedTuple):
    """Let the worker of this post finish and end; `Agency.retired` must follow."""

    number: int
    successor: str
    """As in DrainWorker."""
    timeout_s: float


class KillWorker(NamedTuple):
    """End it at once."""

    inc: bytes


class Say(NamedTuple):
    """In the log."""

    words: str


Action = Send | StartWorker | DismissPost | RetireWorker | KillWorker | Say


class Agency:
    """What this agent has told and been told."""

    def __init__(
        self,
        me: Identity,
        pid: int,
        devices: Sequence[str],
        slots: Sequence[int] = (),
        memory_bytes: Sequence[int] = (),
    ) -> None:
        """`slots` and `memory_bytes` of each device, as AgentHello has them."""
        self._me = me
        self.inc = me.inc
        self._pid = pid
        self._devices = list(devices)
        self._slots = list(slots)
        self._memory_bytes = list(memory_bytes)
        self._posts: dict[int, Post] = {}
        self._living: dict[bytes, int] = {}
        """How many lives the place of each living worker had before."""
        self._secrets: dict[bytes, bytes] = {}
        """Of the living workers."""
        self._answers: dict[int, bytes] = {}
        """The worker that each of the latest Spawns led to: a repeat gets the same answer, also from a new broker."""
        self._finals: dict[bytes, Exited] = {}
        """The latest lives whose post was given up with them: the broker may not have heard."""
        self._retiring: dict[int, bytes] = {}
        """Posts whose worker is to go, and that worker."""
        self._retired: dict[bytes, Retired] = {}
        """The latest that have gone so: a repeat gets the same answer, also from a new broker."""
        self._troubles: list[str] = []
        self._refusal = ""
        """What the broker last said against this agent: it says so again to each of our words."""
        self._verdicts: dict[bytes, str] = {}
        """Why the broker had a living worker killed, where that counts as its crash."""

    @property
    def workers(self) -> list[bytes]:
        """The living ones' incarnations."""
        return sorted(self._living)

    def hello(self) -> Send:
        workers = self.workers
        restarts, proofs = [self._living[inc] for inc in workers], [self._secrets[inc] for inc in workers]
        posts, rooms = list(self._posts.values()), (self._slots, self._memory_bytes)
        mine = (PROTOCOL, self.inc, self._pid, self._devices, workers, restarts, posts, *rooms)
        return Send(AgentHello(*mine, troubles=self._troubles, secret=self._me.secret, proofs=proofs))

    def added(self, post: Post) -> None:
        """There is one more post; the broker hears of it with its first life."""
        self._posts[post.number] = post

    def started(self, number: int, inc: bytes, num_before: int = 0, secret: bytes = b"") -> list[Action]:
        """A life of this post has begun, after others: the broker hears of it before the worker's own hello."""
        self._living[inc], self._secrets[inc] = num_before, secret
        self._posts[number] = self._posts[number]._replace(inc=inc)
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

    def dying(self, inc: bytes) -> list[Action]:
        """A worker's process has begun to end."""
        return [Send(Dying(inc))] if inc in self._living else []

    def ended(self, number: int, cause: str, words: str, final: bool) -> list[Action]:
        """The life of this post has ended; `final`: no other follows."""
        inc = self._posts[number].inc
        self._living.pop(inc, None)
        self._secrets.pop(inc, None)
        self._verdicts.pop(inc, None)
        exited = Exited(inc, cause, words, final)
        if not final:
            self._posts[number] = self._posts[number]._replace(inc=b"")
            return [Send(exited)]
        _remember(self._finals, inc, exited)
        return [Send(exited), *self.dropped(number)]

    def dropped(self, number: int) -> list[Action]:
        """This post is no more."""
        del self._posts[number]
        return [self.hello()]

    def succeeds(self, number: int, old: int) -> list[Action]:
        """The new post `number`, or `old` itself with its next life, takes the place of the worker of `old`."""
        post = self._posts[old]
        self._posts[number] = post._replace(number=number, predecessor=post.inc)
        if number != old:
            self._posts[number] = self._posts[number]._replace(inc=b"")
            self._posts[old] = post._replace(leaving=True)
        return [self.hello()]

    def retired(self, number: int, words: str) -> list[Action]:
        """What a RetireWorker led to: it is done, or with words, it could not be; then another request tries anew."""
        inc = self._retiring.pop(number)
        successor = next((post.inc for post in self._posts.values() if post.predecessor == inc), b"")
        told = Retired(inc, b"" if words else successor, words)
        if not words:
            _remember(self._retired, inc, told)
        elif number in self._posts:
            self._posts[number] = self._posts[number]._replace(leaving=False)
        return [self.hello(), Send(told)]

    def spawned(self, req: int, inc: bytes) -> list[Action]:
        """What a StartWorker led to."""
        _remember(self._answers, req, inc)
        return [Send(Spawned(req, inc))]

    def failed(self, req: int, inc: bytes, words: str) -> list[Action]:
        """A StartWorker was impossible: it is told as a life that ended at once, so that every Spawn is answered."""
        exited = Exited(inc, "crash", words, True)
        _remember(self._finals, inc, exited)
        return [*self.spawned(req, inc), Send(exited)]

    def heard(self, message: Message) -> list[Action]:
        """A message from the broker."""
        match message:
            case Who():
                return [self.hello()]
            case Spawn(req, model, device, on_demand):
                if inc := self._answers.get(req):
                    final = self._finals.get(inc)
                    return [Send(Spawned(req, inc)), Send(final) if final else self.hello()]
                return [StartWorker(req, model, device, on_demand)]
            case Dismiss(number):
                if number not in self._posts:
                    return [self.hello()]
                if self._posts[number].leaving:
                    return []
                self._posts[number] = self._posts[number]._replace(leaving=True)
                return [DismissPost(number), self.hello()]
            case Retire(inc, successor, timeout_ms):
                return self._retire(inc, successor, inf if timeout_ms < 0 else timeout_ms / 1000)
            case Kill(inc, words):
                if inc not in self._living:
                    return []
                if words:
                    self._verdicts[inc] = words
                return [KillWorker(inc)]
            case Refused(words):
                before, self._refusal = self._refusal, words
                return [Say(f"the broker refuses this agent: {words}")] if words != before else []
            case _:
                return [Say(f"the broker sent a {type(message).__name__}, which is not for an agent")]

    def _retire(self, inc: bytes, successor: str, timeout_s: float) -> list[Action]:
        if told := self._retired.get(inc):
            return [Send(told)]
        if inc in self._retiring.values():
            return []
        for number, post in self._posts.items():
            if post.inc == inc and not post.leaving:
                self._retiring[number] = inc
                return [RetireWorker(number, successor, timeout_s)]
        return [Send(Retired(inc, b"", "it has gone already, or is about to"))]


def _remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
    """The latest MAX_ANSWERS."""
    memory[key] = value
    if len(memory) > MAX_ANSWERS:
        del memory[next(iter(memory))]
