"""The end of a front: which requests it still takes, how long those that run may go on, and when it is over.

The process (main.py) begins the drain and asks whether it is over; the gate around the application keeps the count.
"""

from collections.abc import Callable
from math import inf

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenyard.http.errors import shutting_down
from tokenyard.http.middleware import OPEN_PATHS, error_response

NOTICE_S = 1.0
"""A front without a request lives on for so long, that a load balancer which asks /ready each second hears of it."""
PROBES = OPEN_PATHS | {"/metrics"}
"""Answered to the end, and never waited for."""


class Drain:
    """One front's. Times are of whatever clock its callers share."""

    def __init__(self, time_s: float) -> None:
        """`time_s`: how long requests that run may go on."""
        self._time_s = time_s
        self._began_s = inf
        self._notice_s = 0.0
        self.num_running = 0
        """Requests that have not been answered to their end."""
        self.background: list[Callable[[], int]] = []
        """Each tells how much runs for which no client waits."""

    @property
    def has_begun(self) -> bool:
        return self._began_s < inf

    def begin(self, now: float, notice_s: float = NOTICE_S) -> None:
        """Take no more requests. `notice_s`: how long to go on saying so, even if nothing runs."""
        if not self.has_begun:
            self._began_s, self._notice_s = now, notice_s

    def left_s(self, now: float) -> float:
        """How much of its time is left."""
        return max(0.0, self._time_s - max(0.0, now - self._began_s))

    def is_over(self, now: float) -> bool:
        """Whether nothing runs any more, or the time is up: then what runs is cut."""
        if not self.has_begun:
            return False
        num_running = self.num_running + sum(count() for count in self.background)
        return not self.left_s(now) or (not num_running and now - self._began_s >= self._notice_s)


class Gate:
    """Counts requests, and once the drain has begun refuses all but probes."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        drain = self._drain

        async def send_last(message: Message) -> None:
            """The connection ends with this answer: the next request may find another front."""
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        if scope["path"] in PROBES:
            return await self._app(scope, receive, send_last if drain.has_begun else send)
        if drain.has_begun:
            return await error_response(shutting_down(), scope["path"])(scope, receive, send_last)
        drain.num_running += 1
        try:
            return await self._app(scope, receive, send)
        finally:
            drain.num_running -= 1
