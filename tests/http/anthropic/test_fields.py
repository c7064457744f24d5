"""The field table of /v1/messages: complete against the anthropic SDK, strict about values."""

from typing import Any, get_args

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_tokens_params
from anthropic.types.beta import message_create_params as beta_create_params

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.anthropic.fields import COUNTED, MESSAGES
from tokenyard.http.fields import read


@pytest.mark.parametrize("params", [message_create_params, beta_create_params])
def test_every_field_of_the_sdk_has_its_place(params: Any) -> None:
    names = {name for kind in get_args(params.MessageCreateParams) for name in kind.__annotations__}
    assert len(names) >= 15
    assert names <= MESSAGES.keys()


@pytest.mark.parametrize("params", [message_count_tokens_params, beta_count_tokens_params])
def test_every_field_of_the_sdks_count_has_its_place(params: Any) -> None:
    names = params.MessageCountTokensParams.__annotations__.keys()
    assert len(names) >= 9
    assert names <= COUNTED.keys()


def test_no_field_has_two_fates() -> None:
    for field in MESSAGES.values():
        assert (field.honoured is not None) + (field.refused is not None) + field.harmless == 1


BAD: list[tuple[str, Any, str]] = [
    ("temperature", 1.5, "temperature"),
    ("top_p", 0, "top_p"),
    ("max_tokens", 0, "max_tokens"),
    ("messages", [], "messages"),
    ("system", {}, "system"),
    ("stop_sequences", "x", "stop_sequences"),
    ("stop_sequences", ["a", ""], "stop_sequences.1"),
    ("stream", 1, "stream"),
    ("tool_choice", "auto", "tool_choice"),
    ("thinking", True, "thinking"),
    ("thinking", {"type": "between_tools"}, "thinking.type"),
    ("thinking", {"type": "enabled"}, "thinking.budget_tokens"),
    ("thinking", {"type": "enabled", "budget_tokens": 1023}, "thinking.budget_tokens"),
    ("thinking", {"type": "adaptive", "display": "full"}, "thinking.display"),
    ("output_config", [], "output_config"),
    ("output_config", {"effort": "extreme"}, "output_config.effort"),
    ("output_config", {"task_budget": {}}, "output_config.task_budget"),
    ("output_config", {"format": {"type": "text"}}, "output_config.format"),
    (
        "output_config",
        {"format": {"type": "json_schema", "schema": {"not": {}}}},
        "output_config.format.schema.not",
    ),
    ("output_format", {"type": "json_schema"}, "output_format.schema"),
    ("context_management", True, "context_management"),
    ("context_management", {"edits": 1}, "context_management.edits"),
    ("context_management", {"edits": [{"type": "compact_20260112"}]}, "context_management.edits.0.type"),
    (
        "context_management",
        {"edits": [{"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 0}}]},
        "context_management.edits.0.keep.value",
    ),
    (
        "context_management",
        {"edits": [{"type": "clear_thinking_20251015", "keep": 1}]},
        "context_management.edits.0.keep",
    ),
    ("container", "c_1", "container"),
    ("thread", {"type": "create"}, "thread"),
    ("compaction", {}, "compaction"),
    ("mcp_servers", {"type": "url"}, "mcp_servers"),
    ("messages", [{}] * 4097, "messages"),
    ("tools", [{}] * 513, "tools"),
]


@pytest.mark.parametrize(("name", "value", "param"), BAD)
def test_bad_values_are_refused_by_name(name: str, value: Any, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        read({name: value}, MESSAGES)
    assert caught.value.param == param
    assert caught.value.words.startswith(param)


def test_what_asks_for_nothing_passes_and_leaves_nothing() -> None:
    body = {
        "metadata": {"user_id": "me"},
        "service_tier": "auto",
        "container": None,
        "cache_control": {"type": "ephemeral"},
        "fallbacks": "default",
        "some_new_note": 1,
    }
    assert read(body, MESSAGES) == {}
