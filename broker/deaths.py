"""Workers that are gone: when the owners of their jobs hear of it, and what counts against these jobs. Sans-IO.

`Lost` waits a moment for the word on why, for a crash counts. That word may come late: a process is reaped when all its
memory is freed, which took up to 2.7 s on a busy machine, while its agent hears at once that it is dying. So jobs go on
without the word, but not those of a second unexplained death of one model, nor suspects: else a job that kills its
workers could go through a fleet uncounted, and those beside it be taken for its like.
"""

from itertools import takewhile
from math import inf
from typing import NamedTuple

from tokenyard.broker.config import EXIT_WAIT_S, SILENCE_S
from tokenyard.broker.jobs import Jobs
from tokenyard.broker.records import Death, State
from tokenyard.broker.wire import WorkerJob

DEATH_MEMORY_S = 10.0
"""How late an agent's word on a death still counts: over twice SILENCE_S, after which the agent is dead itself."""
PUZZLE_S = SILENCE_S
"""For so long a second death waits for an explanation: as long as a silent worker's jobs do."""


class Notice(NamedTuple):
    """Whose owners are to be told `Lost`, and when at the latest."""

    due_s: float
    jobs: list[WorkerJob]


class Deaths:
    """Over a State that it shares with the rest of the core."""

    def __init__(self, state: State, jobs: Jobs) -> None:
        self._state = state
        self._jobs = jobs
        self._deaths: dict[bytes, Death] = {}
        self._soon: dict[bytes, Notice] = {}  # oldest first, and so by due_s
        self._held: dict[bytes, Notice] = {}  # likewise: those that wait for the word

    def __len__(self) -> int:
        return len(self._deaths)

    def __contains__(self, inc: bytes) -> bool:
        return inc in self._deaths

    def add(self, inc: bytes, lost: list[WorkerJob], model: str, is_early: bool, is_owned: bool) -> None:
        """A worker is gone, with these jobs; `is_early`: it is dying, and nobody can know why yet."""
        now = self._state.now
        is_second = is_early and any(one.is_puzzle and one.model == model for one in self._deaths.values())
        self._deaths[inc] = Death(lost, now + DEATH_MEMORY_S, model, is_puzzle=is_early)
        held: list[WorkerJob] = []
        free: list[WorkerJob] = []
        for key in lost:
            (held if is_owned and (is_second or self._jobs.is_suspect(key)) else free).append(key)
        if held:
            self._held[inc] = Notice(now + PUZZLE_S, held)
        if is_owned and not is_early:
            self._soon[inc] = Notice(now + EXIT_WAIT_S, free)
        else:
            self._jobs.announce(free)

    def announce(self, inc: bytes) -> None:
        """Nothing is to be waited for any more."""
        for waiting in (self._soon, self._held):
            if notice := waiting.pop(inc, None):
                self._jobs.announce(notice.jobs)

    def explain(self, inc: bytes, is_crash: bool) -> None:
        """It is known why, however late: a crash counts."""
        if death := self._deaths.get(inc):
            if is_crash:
                self._jobs.count_crash(death)
            self.announce(inc)
            del self._deaths[inc]

    def revoke(self, inc: bytes) -> None:
        """It was declared dead and lives."""
        self.announce(inc)
        self._deaths.pop(inc, None)

    def remember(self, inc: bytes, until_s: float) -> None:
        """For so long the word on this death may come."""
        self._deaths[inc].forget_s = until_s + DEATH_MEMORY_S

    def tick(self) -> None:
        now = self._state.now
        for waiting in (self._soon, self._held):
            for inc, notice in list(takewhile(lambda item: item[1].due_s <= now, waiting.items())):
                del waiting[inc]
                self._jobs.announce(notice.jobs)

    @property
    def next_tick_s(self) -> float:
        """When `tick` has something to do."""
        firsts = (next(iter(waiting.values()), None) for waiting in (self._soon, self._held))
        return min((notice.due_s for notice in firsts if notice is not None), default=inf)

    def sweep(self) -> None:
        now = self._state.now
        self._deaths = {inc: death for inc, death in self._deaths.items() if death.forget_s > now}

    def check(self) -> None:
        """Assert what must hold after every event."""
        for waiting in (self._soon, self._held):
            assert waiting.keys() <= self._deaths.keys()
            times_s = [notice.due_s for notice in waiting.values()]
            assert times_s == sorted(times_s)
