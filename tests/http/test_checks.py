"""What checks say of values: short, however large the value is; and that their schemas say the same."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.anthropic.fields import MESSAGES
from tokenyard.http.checks import boolean, number
from tokenyard.http.decisions.fields import DECISIONS
from tokenyard.http.embeddings import EMBEDDINGS
from tokenyard.http.fields import CHAT, COMPLETIONS, Field
from tokenyard.http.responses.fields import RESPONSES
from tokenyard.http.tgi.fields import PARAMETERS

VALUES: list[Any] = [
    *(True, False, 0, 1, -1, 2, 5, 16, 1500, 1 << 40, 0.0, 0.5, 1.0, -1.5, 1e9),
    *("", "a", "auto", "text", "high", "enabled", "disabled", "float", "[0-9]+", '{"type": "object"}', "x" * 2000),
    *([], ["a"], ["a", "b"], [1, 2], [[1], [2]], [{}], [{"type": "text"}], [[[1], 0.5]], [1, 0.5], ["\u00e9"] * 200),
    *({}, {"a": "b"}, {"5": -100}, {"type": "text"}, {"type": "json_object"}, {"type": "enabled"}, {"effort": "low"}),
    *({"type": "enabled", "budget_tokens": 2000}, {"format": {"type": "json_object"}}, {"id": "conv_1"}),
    {"type": "json_schema", "schema": {"type": "object"}},
    {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}, "verbosity": "medium"},
    {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    {"type": "regex", "value": "a+"},
    {"regex": "a+", "json": None},
    {"temperature": 0.5, "num_beams": 1, "bad_words_ids": [[1, 2]], "use_cache": True, "eos_token_id": 3},
    [{"type": "predicate", "instructions": "Is it?", "name": None}],
    [{"type": "choice", "instructions": "Which?", "choices": [{"value": "a"}, {"value": True}]}],
    [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "message", "role": "user", "content": "b"},
    ],
]
"""Of all kinds, many of which some check lets through."""

READ_ELSEWHERE = {"messages", "tools", "tool_choice"}
"""Their check lets more through than their schema tells of, for they are read part by part later."""


@pytest.mark.parametrize(
    ("value", "shown"),
    [("yes", "'yes'"), (None, "None"), ([1, 2], "[1, 2]"), ({"a": [1]}, "{'a': [1]}"), (1 << 40, str(1 << 40))],
)
def test_a_short_value_is_shown_as_it_is(value: object, shown: str) -> None:
    with pytest.raises(TokenyardError, match="must be true or false") as caught:
        boolean(value, "stream")
    assert str(caught.value).endswith(f"not {shown}")


@pytest.mark.parametrize("value", ["x" * 1_000_000, [1] * 1_000_000, {str(key): [key] for key in range(100_000)}])
def test_a_large_value_is_shown_in_part(value: object) -> None:
    with pytest.raises(TokenyardError) as caught:
        number(0, 2)(value, "temperature")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("table", [CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS, DECISIONS, PARAMETERS])
def test_a_schema_is_never_stricter_than_its_check(table: dict[str, Field]) -> None:
    """What a check lets through is valid, for many made-up values of every honoured field."""
    for name, field in table.items():
        if field.honoured is None or name in READ_ELSEWHERE or (table is RESPONSES and name == "input"):
            continue
        Draft202012Validator.check_schema(field.honoured.schema)
        for value in VALUES:
            try:
                field.honoured(value, name)
            except TokenyardError:
                continue
            Draft202012Validator(field.honoured.schema).validate(value)
