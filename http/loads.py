"""Waiting for models, on the event loop: performs what Wants decides, and counts it. Must not know HTTP or sockets."""

import asyncio
from collections.abc import Callable

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import LoadFailed, Loading, Message, Want
from tokenyard.http.figures import Figures
from tokenyard.http.wants import Action, Say, Settle, Wants

Settled = Callable[[TokenyardError | None], None]
"""Called once, when a wait is over; without an error the model is up."""


class Loads:
    """What one front waits for; all calls on the event loop's thread."""

    def __init__(self, timeout_s: float, figures: Figures, tell: Callable[[Message], None]) -> None:
        """`tell`: sends to the broker. `timeout_s`: how long one may wait for a model."""
        self._wants = Wants(timeout_s)
        self._figures = figures
        self._tell = tell
        self._connected = False
        self._settled: dict[int, Settled] = {}
        """By waiter."""
        self._known: dict[str, Want] = {}
        """Of models that came up once: how to ask for them again."""

    def known(self, model: str) -> Want | None:
        """How a model that was evicted can be had again, if it came here on demand."""
        return self._known.get(model)

    def progress(self) -> list[Loading]:
        """How far each model is that somebody waits for."""
        return self._wants.progress()

    def progress_of(self, model: str) -> Loading | None:
        """None where nobody waits for it."""
        return self._wants.progress_of(model)

    async def wait(self, want: Want) -> None:
        """Until the model is up. Raises TokenyardError where it cannot be had."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settled(error: TokenyardError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        waiter = self.begin(want, settled)
        try:
            await done
        finally:
            self.leave(waiter)

    def begin(self, want: Want, settled: Settled) -> int:
        """One more waits; the waiter's number. Raises TokenyardError where too many do."""
        waiter, actions = self._wants.wait(want, _now(), self._connected)
        self._settled[waiter] = settled
        self._do(actions)
        return waiter

    def leave(self, waiter: int) -> None:
        """This one waits no more, and is not called. Harmless where its wait is over."""
        self._settled.pop(waiter, None)
        self._do(self._wants.leave(waiter, _now()))

    # From the broker.

    def welcomed(self) -> None:
        """A broker hears us; what is up was told before."""
        self._connected = True
        self.tick()

    def hear(self, message: Loading | LoadFailed) -> None:
        if isinstance(message, Loading):
            self._wants.loading(message)
        else:
            self._do(self._wants.failed(message, _now()))

    def up(self, model: str) -> None:
        """A worker serves it."""
        if want := self._wants.want_of(model):
            self._known[model] = want
        self._do(self._wants.up(model, _now()))

    def tick(self) -> None:
        self._do(self._wants.tick(_now(), self._connected))

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Say):
                self._tell(action.message)
            elif isinstance(action, Settle):
                for waiter in action.waiters:
                    self._settled.pop(waiter)(action.error)
            else:
                self._figures.count("model_loads", action.model, action.outcome)
                if action.outcome == "up":
                    self._figures.histogram("model_load_seconds", action.model).observe(action.seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()
