"""What a connection may cost before its request is whole: bytes of head, seconds of head and body.

uvicorn bounds neither with httptools; a client that sends a byte a minute would hold a connection for ever.
"""

import asyncio
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tokenyard.http import direct
from tokenyard.http.errors import HttpError
from tokenyard.http.middleware import error_response

MAX_HEAD_BYTES = 64 << 10
"""Request line and headers; h11's own limit under uvicorn."""
HEAD_S = 20.0
BODY_S = 20.0
MIN_BYTES_PER_S = 500
"""A head has 20 s, from the connection or from its first byte; a body has 20 s and one more for every 500 bytes that
came: Apache's mod_reqtimeout has the same by default."""

TOO_LARGE = HttpError(431, "headers_too_large", f"the request's head is over the limit of {MAX_HEAD_BYTES:,} bytes")
TOO_SLOW = HttpError(408, "request_timeout", "the request came too slowly", "timeout_error")
REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class GuardedProtocol(HttpToolsProtocol):
    """Cuts clients that are too slow or send too large a head; answers also what is no HTTP."""

    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    _num_bytes = 0
    """Of the head so far, then of the body."""
    _refusal: HttpError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._arm(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._num_bytes += len(data)
            if self._num_bytes > MAX_HEAD_BYTES:
                self._refuse(TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._num_bytes = True, 0
        self._arm(HEAD_S)

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refusal = TOO_LARGE
            raise ValueError(TOO_LARGE.words)
        self._in_head, self._num_bytes = False, 0
        self._arm(BODY_S)
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            direct.offer(cast(Scope, self.scope), self.cycle)

    def on_body(self, body: bytes) -> None:
        self._num_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._disarm()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or HttpError(400, "bad_request", msg))

    def _should_upgrade(self) -> bool:
        """Nothing here speaks websocket: who asks for it is answered as by any other request."""
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """Not said at all: that would be two lines a request."""

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._began_s = self.loop.time()
        self._timer = self.loop.call_later(seconds, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        """The time is up; a body may have earned more, and what we do not read ourselves is not the client's fault."""
        left_s = 0.0
        if not self._in_head:
            left_s = self._began_s + BODY_S + self._num_bytes / MIN_BYTES_PER_S - self.loop.time()
        if self.flow.read_paused or left_s > 0:
            self._timer = self.loop.call_later(max(left_s, 1.0), self._late)
            return
        if self._in_head and not self._num_bytes:
            self.transport.close()  # nothing was asked, and so nothing is answered
        else:
            self._refuse(TOO_SLOW)

    def _refuse(self, refusal: HttpError) -> None:
        """Say why, unless another answer has begun, and close."""
        if self.transport.is_closing():
            return
        last = self.cycle  # of this request if its head is whole, else of the one before
        answered = last is not None and last.response_started and not (self._in_head and last.response_complete)
        if not answered:
            # Whose API it would be is known once the head is whole; "/" is one's own.
            answer: Any = error_response(refusal, "" if self._in_head else self.scope["path"])
            head = b"".join(b"%s: %s\r\n" % one for one in [*answer.raw_headers, (b"connection", b"close")])
            reason = REASONS[refusal.status]
            self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (refusal.status, reason, head, answer.body))
        self.transport.close()
