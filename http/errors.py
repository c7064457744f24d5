"""Failures as an HTTP client sees them: OpenAI's `{"error": {message, type, param, code}}`, whatever went wrong.

Failures that cross processes are TokenyardError (broker/errors.py); HttpError adds those that only HTTP knows.
"""

import math
from collections.abc import Callable
from typing import Any, NoReturn

from tokenyard.broker.errors import KINDS, TokenyardError


class HttpError(Exception):
    """A failure of the HTTP exchange itself: no such route, body too large, wrong key."""

    def __init__(
        self, status: int, code: str, words: str, kind: str = "invalid_request_error", retry_ms: int = 0
    ) -> None:
        super().__init__(words)
        self.status = status
        self.code = code
        self.words = words
        self.kind = kind
        self.retry_ms = retry_ms


INTERNAL = HttpError(500, "internal_error", "the server failed at this request; its log says why", "server_error")

Failure = TokenyardError | HttpError

SHUTTING_DOWN_RETRY_MS = 1000
"""Elsewhere there may be a front that goes on, or soon one here again."""
SHUT_DOWN = "shutting_down"
"""The code of that, which the log gives as the end of a request that is cut, too."""


def shutting_down() -> TokenyardError:
    """What is said to who comes while the server drains, and to those whose time is up."""
    return TokenyardError(SHUT_DOWN, "the server is shutting down", retry_ms=SHUTTING_DOWN_RETRY_MS)


def invalid(param: str, words: str) -> NoReturn:
    """Refuse a request's field; `param` is its dotted path, such as `messages.0.content`."""
    raise TokenyardError("invalid_value", f"{param} {words}", param)


def status_of(error: Failure) -> int:
    return error.status if isinstance(error, HttpError) else KINDS[error.code].status


def body_of(error: Failure) -> dict[str, Any]:
    """OpenAI's error body."""
    if isinstance(error, HttpError):
        return {"error": {"message": error.words, "type": error.kind, "param": None, "code": error.code}}
    kind = KINDS[error.code].type
    return {"error": {"message": error.words, "type": kind, "param": error.param, "code": error.code}}


Shape = Callable[[Failure], dict[str, Any]]

SHAPES: dict[str, Shape] = {}
"""Error bodies of paths that are not OpenAI's, by how the path begins."""


def shape_of(path: str) -> Shape:
    """How the API at this path words its errors."""
    matches = (shape for start, shape in SHAPES.items() if path == start or (start != "/" and path.startswith(start)))
    return next(matches, body_of)


def headers_of(error: Failure) -> dict[str, str]:
    """Retry-After, in whole seconds as RFC 9110 has it, where it is known when to try again."""
    if error.retry_ms > 0:
        return {"retry-after": str(math.ceil(error.retry_ms / 1000))}
    return {}
