"""Workers that are gone: when the owners of their jobs hear of it, and what counts against these jobs. Sans-IO.

`Lost` waits a moment for the word on why, for a crash counts. That word may come late: a process is reaped when all its
memory is freed, which took up to 2.7 s on a busy machine, while its agent hears at once that it is dying. So the jobs
of one unexplained death of a model go on without the word, but those of another one wait for it: else a job that kills
its workers could go through a fleet before the first of these deaths is counted.
"""

from itertools import takewhile
from math import inf

from tokenyard.broker.config import EXIT_WAIT_S, SILENCE_S
from tokenyard.broker.jobs import Jobs
from tokenyard.broker.records import Death, State
from tokenyard.broker.wire import WorkerJob

DEATH_MEMORY_S = 10.0
"""How late an agent's word on a death still counts: over twice SILENCE_S, after which the agent is dead itself."""
PUZZLE_S = SILENCE_S
"""For so long a second death waits for an explanation: as long as a silent worker's jobs do."""


class Deaths:
    """Over a State that it shares with the rest of the core."""

    def __init__(self, state: State, jobs: Jobs) -> None:
        self._state = state
        self._jobs = jobs
        self._deaths: dict[bytes, Death] = {}
        self._unannounced: dict[bytes, Death] = {}  # oldest first, and so by announce_s
        self._held: dict[bytes, Death] = {}  # likewise: those that wait for more than a moment

    def __len__(self) -> int:
        return len(self._deaths)

    def __contains__(self, inc: bytes) -> bool:
        return inc in self._deaths

    def add(self, inc: bytes, lost: list[WorkerJob], model: str, is_early: bool, is_owned: bool) -> None:
        """A worker is gone, with these jobs; `is_early`: it is dying, and nobody can know why yet."""
        now = self._state.now
        is_second = is_early and any(one.is_puzzle and one.model == model for one in self._deaths.values())
        wait_s = PUZZLE_S if is_second else EXIT_WAIT_S
        death = Death(lost, now + wait_s, now + DEATH_MEMORY_S, model, is_puzzle=is_early)
        self._deaths[inc] = death
        (self._held if is_second else self._unannounced)[inc] = death
        if not is_owned:
            self.announce(inc)

    def announce(self, inc: bytes) -> None:
        """Nothing is to be waited for any more."""
        if death := self._unannounced.pop(inc, None) or self._held.pop(inc, None):
            self._jobs.announce(death)

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
        for waiting in (self._unannounced, self._held):
            due = takewhile(lambda item: item[1].announce_s <= now, waiting.items())
            for inc in [inc for inc, _ in due]:
                self.announce(inc)

    @property
    def next_tick_s(self) -> float:
        """When `tick` has something to do."""
        firsts = (next(iter(waiting.values()), None) for waiting in (self._unannounced, self._held))
        return min((death.announce_s for death in firsts if death is not None), default=inf)

    def sweep(self) -> None:
        now = self._state.now
        self._deaths = {inc: death for inc, death in self._deaths.items() if death.forget_s > now}

    def check(self) -> None:
        """Assert what must hold after every event."""
        for waiting in (self._unannounced, self._held):
            assert all(self._deaths.get(inc) is death for inc, death in waiting.items())
            times_s = [death.announce_s for death in waiting.values()]
            assert times_s == sorted(times_s)
        assert not self._unannounced.keys() & self._held.keys()
