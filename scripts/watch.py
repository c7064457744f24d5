"""What to start, restart, end and give up, and when: the supervisor's decisions as pure state.

Events come in with the time, actions go out. This file knows no process, socket or clock.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

FIRST_DELAY_S = 0.1
LAST_DELAY_S = 10.0
"""Between a death and the next start: doubles from the first to the last (systemd and Kubernetes do the like)."""
HEALTHY_S = 30.0
"""A life of this length starts the delays anew; so does one that was ready and was killed from outside."""
LOOP_DEATHS = 5
LOOP_S = 60.0
"""So many deaths in this time, no life ever ready, are a crash loop: five lives of 3 s of imports fit."""
MAX_GIVEN_UP = 16
"""Told of at once: every load on demand that fails is a new one, for as long as the pool lives."""
SILENT_LOOKS = 120
"""A living process of which so many looks in a row, one a beat, have found nothing is killed: as late as the broker has
a silent worker killed (SILENT_KILL_S). Not seconds, in which the supervisor itself may have been stopped."""
OBEY_S = 5.0
"""A worker that is to hand its streams over and does not end is killed: it needs a tenth of a second."""
SETUP_STATUS = 2
"""A process ends with this where it cannot start as it was told to: the next start would fail alike."""


class Role(IntEnum):
    """In the order in which a drain ends them: who gives work to others goes first."""

    FRONT = 0
    WORKER = 1
    BROKER = 2


class Start(NamedTuple):
    name: str


class Terminate(NamedTuple):
    """Ask it to finish and end."""

    name: str


class HandOver(NamedTuple):
    """Have it end at once: its streams go on elsewhere."""

    name: str


class Kill(NamedTuple):
    """It does not listen; the words say why, where nobody had asked it to go."""

    name: str
    words: str = ""


class Retired(NamedTuple):
    """This one has gone as was wanted, and its successor, if it was to have one, serves; or, with words, not."""

    name: str
    words: str


class GaveUp(NamedTuple):
    """This one is not started again; the words say why."""

    name: str
    words: str


class Over(NamedTuple):
    """End what still lives at once, then this process with this status."""

    status: int
    words: str


Action = Start | Terminate | HandOver | Kill | Retired | GaveUp | Over


@dataclass(slots=True)
class Retirement:
    """Of one worker that is to go, perhaps for another in its place."""

    successor: str
    """The post that takes its place: its own name where that begins after its end; empty: none."""
    timeout_s: float
    """How long its streams may run on."""
    hands_over_at: float | None = None
    """Set once it has been told to go."""
    killed_at: float | None = None
    """Set once it has been told to hand over."""
    has_left: bool = False


@dataclass(slots=True)
class Post:
    """One process that should be alive, over all its lives."""

    role: Role
    starts_at: float | None
    """When its next life is due; None while it lives, and once it is given up or ended on purpose."""
    alive_since: float | None = None
    is_ready: bool = False
    """Of the present life."""
    was_ready: bool = False
    """Of any life so far."""
    num_missed: int = 0
    """Looks since it was last heard."""
    delay_s: float = FIRST_DELAY_S
    """The wait after its next death."""
    wait_s: float = 0.0
    """The wait after its last one."""
    is_dismissed: bool = False
    """No life follows the present one."""
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=LOOP_DEATHS))
    """Times of the latest deaths in lives that never became ready and ended by themselves."""
    num_deaths: int = 0
    """Of all lives, but those that ended as asked."""
    last_words: str = ""
    """Of the last such death."""


class Watch:
    """The posts of one supervisor, by name."""

    def __init__(self, drain_timeout_s: float, may_idle: bool = False) -> None:
        """`may_idle`: a pool without a worker is of use, as it can load models."""
        self._may_idle = may_idle
        self.posts: dict[str, Post] = {}
        self.given_up: dict[str, str] = {}
        """Why, by name; the latest few."""
        self.retirements: dict[str, Retirement] = {}
        self._drain_timeout_s = drain_timeout_s
        self._drain_ends_at: float | None = None
        self._stage: Role | None = None
        """Whom the drain is ending now."""
        self._is_over = False

    def add(self, name: str, role: Role, now: float) -> None:
        """Keep one more process alive from now on."""
        assert name not in self.posts, name
        self.posts[name] = Post(role, starts_at=now)

    def tick(self, now: float) -> list[Action]:
        """What is due."""
        if self._drain_ends_at is not None and now >= self._drain_ends_at:
            return self._over(1, "the drain took too long")
        starts: list[Action] = []
        for name, post in self.posts.items():
            if post.starts_at is not None and post.starts_at <= now and not self._is_leaving(post):
                post.starts_at, post.alive_since, post.is_ready = None, now, False
                starts.append(Start(name))
        return starts + self._press(now)

    def ready(self, name: str, now: float) -> list[Action]:
        """This life has started up."""
        post = self.posts[name]
        post.is_ready = post.was_ready = True
        post.num_missed = 0
        post.deaths.clear()
        actions: list[Action] = []
        for old, retirement in list(self.retirements.items()):
            if retirement.successor != name:
                continue
            if retirement.has_left:
                actions += self._retired(old)
            elif old != name and retirement.hands_over_at is None:
                actions += self._see_off(old, now)
        return actions

    def missed(self, name: str) -> list[Action]:
        """One look at the pool found nothing of this life."""
        post = self.posts.get(name)
        if post is None or not post.is_ready or self.is_draining:
            return []
        post.num_missed += 1
        return [Kill(name, "hung: it is silent")] if post.num_missed % SILENT_LOOKS == 0 else []

    def died(self, name: str, status: int, now: float, was_killed: bool = False, words: str = "") -> list[Action]:
        """A life has ended with this status (as subprocess has it: negative for a signal); `words` say why.

        `was_killed`: from outside, which says nothing against one that has been ready before. One that never was may
        be killed for what it does, by a container's memory limit, say.
        """
        post = self.posts[name]
        assert post.alive_since is not None, name
        lived_s, post.alive_since = now - post.alive_since, None
        if self._is_leaving(post):
            return self._next_stage()
        if name in self.retirements and not post.is_dismissed:
            return self._left(name, now)
        if post.is_dismissed:
            return self._remove(name)
        if status == 0 and post.role is Role.WORKER:  # drained on demand: it has gone for good
            return self._remove(name)
        post.num_deaths, post.last_words = post.num_deaths + 1, words
        if not post.is_ready and not (was_killed and post.was_ready):
            post.deaths.append(now)
        if status == SETUP_STATUS and not post.was_ready:
            return self._give_up(name, "cannot start as it was told to", SETUP_STATUS)
        if len(post.deaths) == LOOP_DEATHS and now - post.deaths[0] <= LOOP_S:
            return self._give_up(name, f"died {LOOP_DEATHS} times in {now - post.deaths[0]:.0f} s and was never ready")
        if lived_s >= HEALTHY_S or (was_killed and post.is_ready):
            post.delay_s = FIRST_DELAY_S
        post.wait_s = post.delay_s
        post.starts_at = now + post.wait_s
        post.delay_s = min(post.delay_s * 2, LAST_DELAY_S)
        return []

    def dismiss(self, name: str) -> list[Action]:
        """Let this one finish and end for good."""
        post = self.posts[name]
        post.is_dismissed = True
        return self._remove(name) if post.alive_since is None else [Terminate(name)]

    def is_awaited(self, name: str) -> bool:
        """Whether this one is to take another's place, and is not ready yet."""
        return any(name == one.successor != old for old, one in self.retirements.items())

    def retire(self, name: str, successor: str, timeout_s: float, now: float) -> list[Action]:
        """Let this one finish and end, and hand over what it has not finished in time.

        `successor`: a new post, which is up before this one goes; or this one, whose next life follows; or empty.
        """
        assert name not in self.retirements, name
        assert not self.is_awaited(name), name
        self.retirements[name] = Retirement(successor, timeout_s)
        if successor in ("", name):
            return self._see_off(name, now)
        self.add(successor, self.posts[name].role, now)
        return []

    def drain(self, now: float) -> list[Action]:
        """End all in the order of roles, each finishing what it has; asked a second time, end at once."""
        if self.is_draining:
            return self._over(1, "asked twice")
        self._drain_ends_at = now + self._drain_timeout_s
        self._stage = Role.FRONT
        return self._terminate_stage()

    @property
    def is_draining(self) -> bool:
        return self._stage is not None

    def troubles(self) -> list[str]:
        """What people should know of those that died, a line each."""
        lines = [f"{name} is given up: {words}" for name, words in self.given_up.items()]
        for name, post in self.posts.items():
            if post.num_deaths:
                times = "once" if post.num_deaths == 1 else f"{post.num_deaths} times"
                wait = f"; it starts again after {post.wait_s:.1f} s" if post.alive_since is None else ""
                lines.append(f"{name} died {times}, last {post.last_words}{wait}")
        return lines

    def next_due(self) -> float | None:
        """When `tick` has something to do next."""
        times = [
            post.starts_at for post in self.posts.values() if post.starts_at is not None and not self._is_leaving(post)
        ]
        if self._drain_ends_at is not None:
            times.append(self._drain_ends_at)
        for retirement in self.retirements.values():
            times += [] if (due := self._pressed_at(retirement)) is None else [due]
        return min(times, default=None)

    def check(self) -> None:
        """The invariants; tests call this after every event."""
        for name, post in self.posts.items():
            assert name not in self.given_up
            assert post.starts_at is None or post.alive_since is None, f"{name} lives and is due"
            assert self._is_leaving(post) or post.starts_at is not None or post.alive_since is not None, (
                f"{name} is forgotten"
            )
            assert FIRST_DELAY_S <= post.delay_s <= LAST_DELAY_S
            assert not post.is_ready or post.was_ready
        for name, retirement in self.retirements.items():
            successor = self.posts.get(retirement.successor)
            assert successor is not None or not retirement.successor, f"{name} waits for nobody"
            assert retirement.has_left or name in self.posts
            assert (
                retirement.hands_over_at is not None or not retirement.has_left or successor is not self.posts.get(name)
            )
        assert self.is_draining == (self._drain_ends_at is not None)
        assert self._is_over or not self.is_draining or any(self._in_stage(post) for post in self.posts.values())

    def _see_off(self, name: str, now: float) -> list[Action]:
        """Tell it to finish; where it does not live, it has left."""
        retirement = self.retirements[name]
        retirement.hands_over_at = now + retirement.timeout_s
        return [Terminate(name)] if self.posts[name].alive_since is not None else self._left(name, now)

    def _left(self, name: str, now: float) -> list[Action]:
        """One that retires does not live any more, whether it went or died."""
        retirement = self.retirements[name]
        retirement.has_left = True
        if retirement.successor == name:
            post = self.posts[name]
            post.starts_at, post.is_ready = now, False
            return []
        del self.posts[name]
        if retirement.successor and not self.posts[retirement.successor].is_ready:
            return []  # it died before its successor is up
        return self._retired(name)

    def _retired(self, name: str, words: str = "") -> list[Action]:
        del self.retirements[name]
        return [Retired(name, words)]

    def _remove(self, name: str) -> list[Action]:
        """This post is no more; whoever waits for it waits in vain."""
        del self.posts[name]
        actions: list[Action] = []
        for old, retirement in list(self.retirements.items()):
            if old == name:
                actions += self._retired(old, "it was dismissed meanwhile")
            elif retirement.successor == name:
                actions += self._retired(old, "its successor was dismissed")
        return actions

    def _pressed_at(self, retirement: Retirement) -> float | None:
        """When one that goes too slowly is told so."""
        if retirement.has_left or self.is_draining:
            return None
        return retirement.hands_over_at if retirement.killed_at is None else retirement.killed_at

    def _press(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for name, retirement in self.retirements.items():
            due = self._pressed_at(retirement)
            if due is not None and due <= now:
                actions.append(HandOver(name) if retirement.killed_at is None else Kill(name))
                retirement.killed_at = now + OBEY_S
        return actions

    def _is_leaving(self, post: Post) -> bool:
        """Whether the drain has come to it; the others are still kept alive, for streams need them."""
        return self._stage is not None and post.role <= self._stage

    def _in_stage(self, post: Post) -> bool:
        return post.role is self._stage and post.alive_since is not None

    def _terminate_stage(self) -> list[Action]:
        actions: list[Action] = [Terminate(name) for name, post in self.posts.items() if self._in_stage(post)]
        return actions or self._next_stage()

    def _next_stage(self) -> list[Action]:
        assert self._stage is not None
        if any(self._in_stage(post) for post in self.posts.values()):
            return []
        if self._stage is Role.BROKER:
            return self._over(0, "drained")
        self._stage = Role(self._stage + 1)
        return self._terminate_stage()

    def _give_up(self, name: str, words: str, status: int = 1) -> list[Action]:
        """Without a broker, a front or any worker the rest is of no use: all is over, with this status."""
        post = self.posts.pop(name)
        role = post.role
        self.given_up[name] = f"it {words}; last {post.last_words}"
        if len(self.given_up) > MAX_GIVEN_UP:
            del self.given_up[next(iter(self.given_up))]
        actions: list[Action] = [GaveUp(name, words)]
        for old, retirement in list(self.retirements.items()):
            if name in (old, retirement.successor):
                actions += self._retired(old, f"its successor {words}: {post.last_words}")
        if self.is_draining:
            return actions + self._next_stage()
        is_empty = not any(post.role is Role.WORKER for post in self.posts.values())
        if role is not Role.WORKER or (is_empty and not self._may_idle):
            actions += self._over(status, f"{name} {words}")
        return actions

    def _over(self, status: int, words: str) -> list[Action]:
        self._is_over = True
        return [Over(status, words)]
