"""The table of Responses' fields: complete against the openai SDK, strict about values, refusals by name."""

from typing import Any, get_args

import pytest
from openai.types.responses import input_token_count_params as count_params
from openai.types.responses import response_create_params as create_params

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.fields import read
from tokenyard.http.responses.fields import RESPONSES


def test_every_field_of_the_sdk_has_its_place() -> None:
    kinds = get_args(create_params.ResponseCreateParams)
    names = {name for kind in kinds for name in kind.__annotations__}
    assert len(names) >= 30
    assert names <= RESPONSES.keys()
    assert count_params.InputTokenCountParams.__annotations__.keys() <= RESPONSES.keys()


def test_no_field_has_two_fates() -> None:
    for field in RESPONSES.values():
        assert (field.honoured is not None) + (field.refused is not None) + field.harmless == 1


BAD: list[tuple[str, Any, str]] = [
    ("input", 5, "input"),
    ("instructions", ["x"], "instructions"),
    ("previous_response_id", "", "previous_response_id"),
    ("conversation", {"name": "x"}, "conversation.id"),
    ("store", "yes", "store"),
    ("background", 1, "background"),
    ("max_output_tokens", 0, "max_output_tokens"),
    ("max_tool_calls", 0, "max_tool_calls"),
    ("metadata", {"a": 1}, "metadata.a"),
    ("metadata", {"a": "x" * 513}, "metadata.a"),
    ("metadata", {str(number): "" for number in range(17)}, "metadata"),
    ("metadata", [], "metadata"),
    ("include", ["everything"], "include.0"),
    ("include", "message.output_text.logprobs", "include"),
    ("top_logprobs", 21, "top_logprobs"),
    ("reasoning", {"effort": 3}, "reasoning.effort"),
    ("reasoning", {"summary": "detailed"}, "reasoning.summary"),
    ("text", {"verbosity": "low"}, "text.verbosity"),
    ("text", {"format": {"type": "xml"}}, "text.format"),
    ("text", {"format": {"type": "json_schema", "schema": {}}}, "text.format.name"),
    ("text", {"format": {"type": "json_schema", "name": "x"}}, "text.format.schema"),
    ("truncation", "middle", "truncation"),
    ("stream_options", {"include_obfuscation": 1}, "stream_options.include_obfuscation"),
    ("prompt", {"id": "pmpt_1"}, "prompt"),
    ("context_management", [{"type": "compaction"}], "context_management"),
    ("moderation", {"model": "x"}, "moderation"),
    ("personality", "friendly", "personality"),
    ("messages", [], "messages"),
    ("n", 2, "n"),
    ("max_tokens", 5, "max_tokens"),
    ("response_format", {"type": "text"}, "response_format"),
    ("reasoning_effort", "low", "reasoning_effort"),
    ("temperature", 3, "temperature"),
    ("use_beam_search", True, "use_beam_search"),
]


@pytest.mark.parametrize(("name", "value", "param"), BAD)
def test_bad_values_are_refused_by_name(name: str, value: Any, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        read({name: value}, RESPONSES)
    assert caught.value.param == param
    assert caught.value.words.startswith(param)


@pytest.mark.parametrize(
    "body",
    [
        {"client_metadata": {"x": "1"}, "service_tier": "auto", "prompt_cache_retention": "24h", "some_new_note": 1},
        {"image": {"context_compression": "auto"}, "access_programs": {"cyber": "standard"}, "background_options": {}},
        {"moderation": None, "prompt": None, "context_management": []},
    ],
)
def test_what_asks_for_nothing_passes_and_leaves_nothing(body: dict[str, Any]) -> None:
    assert read(body, RESPONSES) == {}


def test_conversations_are_named_by_id_or_object() -> None:
    assert read({"conversation": "conv_1"}, RESPONSES) == read({"conversation": {"id": "conv_1"}}, RESPONSES)
