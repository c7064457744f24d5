"""What becomes of every field of a request to /v1/messages, in the style of tokenyard.http.fields.

MESSAGES is the whole truth: a test compares it with the anthropic SDK's own types, beta ones included.
"""

from typing import Any, NamedTuple

from tokenyard.broker.params import Grammar
from tokenyard.http.checks import (
    MAX_STOPS,
    Check,
    anything,
    array,
    described,
    instance,
    integer,
    number,
    one_of,
    or_null,
    string,
)
from tokenyard.http.errors import invalid
from tokenyard.http.fields import (
    COMMON,
    HARMLESS,
    INT64,
    MAX_MESSAGES,
    MAX_TOOLS,
    SAMPLING,
    Field,
    refused_unless,
)
from tokenyard.http.grammars import json_schema
from tokenyard.http.shapes import BLOCK_MESSAGE, BLOCK_TOOL, read_elsewhere

MIN_BUDGET_TOKENS = 1024
"""Anthropic's least budget of thinking."""

EFFORTS = ("low", "medium", "high", "xhigh", "max")


class Thinking(NamedTuple):
    """What a request says of thinking."""

    type: str
    """enabled, adaptive or disabled."""
    omitted: bool
    """Whether the answer leaves the thoughts out."""


_thinking_type = one_of("enabled", "adaptive", "disabled")
_display = one_of("summarized", "omitted")
_budget = integer(MIN_BUDGET_TOKENS, INT64)
_effort = one_of(*EFFORTS)


@described(
    {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": _thinking_type.schema,
            "budget_tokens": or_null(_budget.schema),
            "display": or_null(_display.schema),
        },
    }
)
def thinking(value: Any, param: str) -> Thinking:
    """`budget_tokens` is a target, as Anthropic says; what bounds an answer and its thoughts is `max_tokens`."""
    if type(value) is not dict:
        invalid(param, "must be an object")
    kind = _thinking_type(value.get("type"), f"{param}.type")
    if kind == "enabled":
        _budget(value.get("budget_tokens"), f"{param}.budget_tokens")
    display = value.get("display")
    return Thinking(kind, display is not None and _display(display, f"{param}.display") == "omitted")


@described(
    {
        "type": "object",
        "required": ["type", "schema"],
        "properties": {"type": {"const": "json_schema"}, "schema": json_schema.schema},
    }
)
def output_format(value: Any, param: str) -> Grammar:
    """A JSON Schema that the answer's text matches."""
    if type(value) is not dict or value.get("type") != "json_schema":
        invalid(param, "must be an object whose type is 'json_schema'")
    return json_schema(value.get("schema"), f"{param}.schema")


_OUTPUT: dict[str, Check] = {"effort": _effort, "format": output_format}


@described(
    {
        "type": "object",
        "properties": {name: or_null(check.schema) for name, check in _OUTPUT.items()},
        "additionalProperties": {"type": "null"},
    }
)
def output_config(value: Any, param: str) -> dict[str, Any]:
    """Effort and format."""
    if type(value) is not dict:
        invalid(param, "must be an object")
    for key, one in value.items():
        if key not in _OUTPUT and one is not None:
            invalid(f"{param}.{key}", "is not supported here")
    return {key: check(value[key], f"{param}.{key}") for key, check in _OUTPUT.items() if value.get(key) is not None}


@described({"type": "object", "properties": {"edits": {"type": ["array", "null"], "items": {"type": "object"}}}})
def context_management(value: Any, param: str) -> int | None:
    """How many turns keep their thoughts, or None for all: of Anthropic's edits, only that of thoughts is done."""
    if type(value) is not dict:
        invalid(param, "must be an object")
    edits = value.get("edits")
    if edits is not None and type(edits) is not list:
        invalid(f"{param}.edits", "must be a list")
    kept: int | None = None
    for index, edit in enumerate(edits or []):
        at = f"{param}.edits.{index}"
        if type(edit) is not dict or edit.get("type") != "clear_thinking_20251015":
            invalid(f"{at}.type", "must be 'clear_thinking_20251015': other edits are not supported here")
        kept = _kept_thoughts(edit.get("keep"), f"{at}.keep")
    return kept


def _kept_thoughts(keep: Any, param: str) -> int | None:
    if keep == "all" or (type(keep) is dict and keep.get("type") == "all"):
        return None
    if keep is None:
        return 1  # Anthropic's default.
    if type(keep) is not dict or keep.get("type") != "thinking_turns":
        invalid(param, "must be 'all' or an object whose type is 'thinking_turns'")
    turns: int = integer(1, INT64)(keep.get("value"), f"{param}.value")
    return turns


MESSAGES: dict[str, Field] = {
    # What other APIs here call by the same name does the same here.
    **SAMPLING,
    **{name: COMMON[name] for name in ("model", "max_tokens", "stream", "cache_salt", "priority")},
    "temperature": Field(number(0, 1)),
    "messages": Field(array(read_elsewhere(BLOCK_MESSAGE), 1, MAX_MESSAGES)),
    "system": Field(instance(str, list, words="a string or a list of text blocks")),
    "stop_sequences": Field(array(string(1, 1024), high=MAX_STOPS)),
    "tools": Field(array(read_elsewhere(BLOCK_TOOL), high=MAX_TOOLS)),
    "tool_choice": Field(instance(dict, words="an object")),
    "mcp_servers": Field(array(anything, high=MAX_TOOLS)),
    "thinking": Field(thinking),
    "output_config": Field(output_config),
    "output_format": Field(output_format),
    "context_management": Field(context_management),
    # Notes for the provider; none of them touches the text.
    "metadata": HARMLESS,
    "cache_control": HARMLESS,
    "service_tier": HARMLESS,
    "speed": HARMLESS,
    "inference_geo": HARMLESS,
    "diagnostics": HARMLESS,
    "billing_policy": HARMLESS,
    "user_profile_id": HARMLESS,
    "workspace_id": HARMLESS,
    "betas": HARMLESS,
    # What to do when a model declines by policy: ours never do.
    "fallbacks": HARMLESS,
    "fallback_credit_token": HARMLESS,
    # What Anthropic's servers keep or run.
    "container": refused_unless(),
    "thread": refused_unless(),
    "compaction": refused_unless(),
}
"""Anthropic's fields, and the sampler's that Anthropic lacks."""

COUNTED: dict[str, Field] = {
    name: field
    for name, field in MESSAGES.items()
    if name not in SAMPLING and name not in ("max_tokens", "stream", "stop_sequences")
}
"""The fields of /v1/messages/count_tokens: those that reach the prompt."""
