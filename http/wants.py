"""The models that somebody in this front waits for, and what to tell the broker and the waiting.

Sans-IO: events and the time (seconds, any origin) in, actions out. All that wait for a model share one want, which is
said again as long as anybody is left. Must not know sockets, HTTP, or where a model is found.
"""

from typing import NamedTuple

from tokenyard.broker.config import SUBMIT_REPEAT_S
from tokenyard.broker.errors import TokenyardError, told_error
from tokenyard.broker.wire import LoadFailed, Loading, Want
from tokenyard.http.streams import ACCEPT_WITHIN_S

MAX_WAITERS = 1024
"""Of one model, in this front: as many as the broker queues jobs of one."""
RETRY_MS = 1000
"""Whoever was not served for want of a model or a broker may ask again so soon."""


class Say(NamedTuple):
    """For the broker."""

    message: Want


class Settle(NamedTuple):
    """For waiters: their wait is over. Without an error the model is up."""

    waiters: list[int]
    error: TokenyardError | None


class Over(NamedTuple):
    """Nobody waits for this model any more. `outcome`: up, an error's code, or cancelled: all have left."""

    model: str
    outcome: str
    seconds: float


Action = Say | Settle | Over


class _Load:
    """One model that is waited for."""

    __slots__ = ("began", "due", "progress", "unanswered", "waiters", "want")

    def __init__(self, want: Want, now: float) -> None:
        self.want = want
        self.began = now
        self.waiters: dict[int, float] = {}
        """When each has waited long enough."""
        self.due = now
        """When to say it (again)."""
        self.unanswered: float | None = now
        """Since when nothing was heard of it; None: it was answered, and not said again since."""
        self.progress = Loading(want.model, "waiting", 0.0, "")


class Wants:
    """All that one front waits for."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: how long one may wait for a model."""
        self._timeout_s = timeout_s
        self._loads: dict[str, _Load] = {}
        self._models: dict[int, str] = {}
        """What each waiter waits for."""
        self._next_waiter = 1

    def __len__(self) -> int:
        return len(self._loads)

    def progress(self) -> list[Loading]:
        """How far each model is."""
        return [load.progress for load in self._loads.values()]

    def progress_of(self, model: str) -> Loading | None:
        """None where nobody waits for it."""
        load = self._loads.get(model)
        return load.progress if load else None

    def want_of(self, model: str) -> Want | None:
        """What is said of it; None where nobody waits for it."""
        load = self._loads.get(model)
        return load.want if load else None

    def wait(self, want: Want, now: float, connected: bool) -> tuple[int, list[Action]]:
        """One more waits for a model. Raises TokenyardError where too many do."""
        load = self._loads.get(want.model)
        if load is None:
            load = self._loads[want.model] = _Load(want, now)
        if len(load.waiters) >= MAX_WAITERS:
            raise TokenyardError("queue_full", f"{MAX_WAITERS:,} requests wait for {want.model}", "model", RETRY_MS)
        load.want = want
        waiter, self._next_waiter = self._next_waiter, self._next_waiter + 1
        load.waiters[waiter] = now + self._timeout_s
        self._models[waiter] = want.model
        return waiter, self._say(load, now) if connected else []

    def leave(self, waiter: int, now: float) -> list[Action]:
        """This one waits no more. Harmless where its wait is over."""
        model = self._models.get(waiter)
        return self._settle(self._loads[model], [waiter], None, "cancelled", now)[1:] if model else []

    def loading(self, message: Loading) -> None:
        if load := self._loads.get(message.model):
            load.progress, load.unanswered = message, None

    def failed(self, message: LoadFailed, now: float) -> list[Action]:
        error = told_error(message.code, message.words, "model", otherwise="model_load_failed")
        return self._end(message.model, error, now)

    def up(self, model: str, now: float) -> list[Action]:
        """A worker serves it."""
        return self._end(model, None, now)

    def tick(self, now: float, connected: bool) -> list[Action]:
        """Wants that are due, and whoever has waited too long."""
        actions: list[Action] = []
        for model, load in list(self._loads.items()):
            if load.unanswered is not None and now >= load.unanswered + ACCEPT_WITHIN_S:
                words = "the pool's broker does not answer"
                actions += self._end(model, TokenyardError("pool_unavailable", words, None, RETRY_MS), now)
                continue
            late = [waiter for waiter, deadline in load.waiters.items() if now >= deadline]
            if late:
                error = self._too_late(load)
                actions += self._settle(load, late, error, error.code, now)
            if connected and load.waiters:
                actions += self._say(load, now)
        return actions

    def _say(self, load: _Load, now: float) -> list[Action]:
        if now < load.due:
            return []
        load.due = now + SUBMIT_REPEAT_S
        if load.unanswered is None:
            load.unanswered = now
        return [Say(load.want)]

    def _too_late(self, load: _Load) -> TokenyardError:
        far = load.progress.words or load.progress.phase
        words = f"{load.want.model} was not up within {self._timeout_s:g} s (--load-timeout): {far}"
        return TokenyardError("model_loading", words, "model", RETRY_MS)

    def _end(self, model: str, error: TokenyardError | None, now: float) -> list[Action]:
        load = self._loads.get(model)
        return self._settle(load, list(load.waiters), error, error.code if error else "up", now) if load else []

    def _settle(
        self, load: _Load, waiters: list[int], error: TokenyardError | None, outcome: str, now: float
    ) -> list[Action]:
        """These waits are over; with the last one, the want is."""
        for waiter in waiters:
            del load.waiters[waiter], self._models[waiter]
        actions: list[Action] = [Settle(waiters, error)]
        if not load.waiters:
            del self._loads[load.want.model]
            actions.append(Over(load.want.model, outcome, now - load.began))
        return actions

    def check(self) -> None:
        """Invariants, for tests."""
        for model, load in self._loads.items():
            assert load.want.model == load.progress.model == model
            assert load.waiters
        held = {waiter: model for model, load in self._loads.items() for waiter in load.waiters}
        assert held == self._models
