"""One line in the log for each request's end, and the request's id in every line that is written on its behalf.

The line's figures come from the request's generation, which finds the record of its request by itself: it is made in
the request's own context.
"""

import logging
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenyard.http.generation import Generation

log = logging.getLogger(__name__)

QUIET_PATHS = frozenset({"/health", "/ready", "/metrics"})
"""Asked by machines every few seconds: these lines are for `--log-level debug`."""

HEAD = ("method", "path", "status")
"""What a line begins with; all else is told by name."""


class RequestRecord:
    """What the log will say of one request."""

    def __init__(self, request_id: str, method: str, path: str) -> None:
        self.request_id = request_id
        self.method = method
        self.path = path
        """As it was sent, still percent-encoded: a line stays a line."""
        self.status = 499
        """Until an answer begins: whoever gets none has left."""
        self.began_s = time.monotonic()
        self.first_token_s: float | None = None
        self.generation: Generation | None = None
        """The first that the request made; one of several turns speaks for them all."""
        self.finish = ""
        """How it ended: the last job's finish reason, or an error's code."""

    def fields(self) -> dict[str, Any]:
        """All of it, for people and machines."""
        told: dict[str, Any] = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "total_s": round(time.monotonic() - self.began_s, 4),
        }
        generation = self.generation
        if generation is None or not generation.plans:
            return told | ({"finish": self.finish} if self.finish else {})
        usage = generation.usage
        told["model"] = generation.plans[0].job.model
        told["prompt_tokens"] = usage["prompt_tokens"]
        told["completion_tokens"] = usage["completion_tokens"]
        if self.first_token_s is not None:
            told["ttft_s"] = round(self.first_token_s - self.began_s, 4)
        told["finish"] = self.finish
        return told

    def write(self) -> None:
        """The line."""
        fields = self.fields()
        level = logging.DEBUG if self.path in QUIET_PATHS else logging.INFO
        words = " ".join(f"{name}={value}" for name, value in fields.items() if name not in HEAD)
        log.log(level, "%s %s %d %s", self.method, self.path, self.status, words, extra={"fields": fields})


RECORD: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)
"""Of the request that the running task serves."""


def name_request(line: logging.LogRecord) -> bool:
    """A filter that leaves nothing out: says in a line which request it was written for."""
    if (record := RECORD.get()) is not None:
        line.request_id = record.request_id
    return True
