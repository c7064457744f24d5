"""Failures in Anthropic's shape: `{"type": "error", "error": {type, message}}`, for every path under /v1/messages."""

import re
from typing import Any

from tokenyard.http.errors import Failure, status_of

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    499: "api_error",
    500: "api_error",
    503: "overloaded_error",
}
"""By HTTP status, as Anthropic documents them; all others are of the request."""

_OPENAI_FIELD = re.compile(r"^(tools\.\d+|tool_choice)\.function(\.parameters)?\b")


def error_body(error: Failure) -> dict[str, Any]:
    """Anthropic has no `param`: the message begins with the field's path, as everywhere here."""
    kind = TYPES.get(status_of(error), "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": _in_anthropic_terms(error.words)}}


def _in_anthropic_terms(words: str) -> str:
    """What is behind all APIs speaks of tools in OpenAI's terms: `tools.0.function.parameters`."""
    return _OPENAI_FIELD.sub(lambda match: match[1] + (".input_schema" if match[2] else ""), words)
