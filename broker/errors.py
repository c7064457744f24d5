"""Every failure that crosses a process border, on one screen.

`code` travels on the wire (Reject, a delta's finish) and comes out in OpenAI's error body; a test compares the table
with docs/protocol.md. Failures inside one room are that room's own business.
"""

from typing import NamedTuple


class Kind(NamedTuple):
    """How one error code looks to an HTTP client."""

    status: int
    type: str
    retry: bool
    """Whether the same request may succeed later without a change."""


KINDS: dict[str, Kind] = {
    "invalid_value": Kind(400, "invalid_request_error", False),
    "context_length_exceeded": Kind(400, "invalid_request_error", False),
    "model_not_found": Kind(404, "invalid_request_error", False),
    "model_too_large": Kind(400, "invalid_request_error", False),
    "model_load_failed": Kind(500, "server_error", False),
    "model_gated": Kind(403, "permission_error", False),
    "model_unsupported": Kind(400, "invalid_request_error", False),
    "hub_unreachable": Kind(503, "service_unavailable", True),
    "disk_full": Kind(507, "server_error", False),
    "queue_full": Kind(429, "rate_limit_error", True),
    "deadline_exceeded": Kind(408, "timeout_error", True),
    "model_loading": Kind(503, "service_unavailable", True),
    "pool_unavailable": Kind(503, "service_unavailable", True),
    "shutting_down": Kind(503, "service_unavailable", True),
    "job_crashes_workers": Kind(500, "server_error", False),
    "worker_error": Kind(500, "server_error", False),
    "cancelled": Kind(499, "cancelled", False),
}


class TokenyardError(Exception):
    """Anything that a user or a peer can cause.

    `param` names the request field at fault, where there is one.
    """

    def __init__(self, code: str, words: str, param: str | None = None, retry_ms: int = 0) -> None:
        assert code in KINDS, code
        super().__init__(words)
        self.code = code
        self.words = words
        self.param = param
        self.retry_ms = retry_ms


def told_error(
    code: str, words: str, param: str | None = None, retry_ms: int = 0, otherwise: str = "worker_error"
) -> TokenyardError:
    """What a peer says that went wrong; `otherwise`: the code where its own is of another version's."""
    return TokenyardError(code if code in KINDS else otherwise, words, param, retry_ms)


REFUSALS = {
    "malformed": "no message of the protocol, or a field out of its range",
    "oversized": "a message, or a description of a worker, that is larger than any may be",
    "identity": "a hello, an ack or a goodbye without the secret of the one that it speaks for",
    "ownership": "an agent's word about a worker that is not its own",
    "role": "a message that this kind of peer does not send",
    "version": "another version of the protocol",
    "user": "another user's process",
    "key": "a CURVE key that may not, or not any more",
}
"""Why messages are refused, for those who count."""


class WireError(Exception):
    """A peer sent what it may not send; the message is dropped, the peer lives on. `reason` is one of REFUSALS."""

    def __init__(self, words: str, reason: str = "malformed") -> None:
        assert reason in REFUSALS, reason
        super().__init__(words)
        self.reason = reason


class SetupError(Exception):
    """The process cannot start as it was told to; the words say what to change."""


def first_line(error: BaseException) -> str:
    """What an exception says, for one line; its name where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
