"""Conversations as clients send them, brought to the shape of chat templates; what is refused names its place."""

from typing import Any

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.messages import read_messages, with_written_arguments

USER = {"role": "user", "content": "hi"}
CALL = {"function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hi", "messages.0"),
        ({"content": "x"}, "messages.0.role"),
        ({"role": "wizard", "content": "x"}, "messages.0.role"),
        ({"role": ["user"], "content": "x"}, "messages.0.role"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": 1}, "messages.0.content"),
        ({"role": "user", "content": ["x"]}, "messages.0.content.0"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages.0.content.0.type"),
        ({"role": "assistant", "content": "x", "tool_calls": {}, "audio": {"id": "a"}}, "messages.0.audio"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages.0.tool_calls.0.function"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}, "messages.0.tool_calls.0.function.name"),
        ({"role": "user", "content": "x", "tool_calls": [{}]}, "messages.0.tool_calls"),
        ({"role": "user", "content": "x", "name": 3}, "messages.0.name"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}] * 1025}, "messages.0.content"),
        ({"role": "assistant", "tool_calls": [CALL] * 1025}, "messages.0.tool_calls"),
    ],
)
def test_what_is_refused_names_its_place(message: Any, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        read_messages([message])
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (USER, USER),
        ({"role": "developer", "content": "be brief"}, {"role": "system", "content": "be brief"}),
        ({"role": "assistant", "content": None, "tool_calls": None}, {"role": "assistant", "content": ""}),
        ({"role": "assistant"}, {"role": "assistant", "content": ""}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "ab"},
        ),
        (
            {"role": "assistant", "content": "x", "reasoning_content": "why", "refusal": None, "annotations": []},
            {"role": "assistant", "content": "x", "reasoning_content": "why"},
        ),
        (
            {"role": "tool", "content": "4", "tool_call_id": "call_1"},
            {"role": "tool", "content": "4", "tool_call_id": "call_1"},
        ),
    ],
)
def test_legal_shapes(message: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read_messages([message]) == [expected]


@pytest.mark.parametrize(
    ("sent", "rendered"),
    [('{"a": 1}', {"a": 1}), ({"a": 1}, {"a": 1}), ("", {}), (None, {}), ("{bro", "{bro"), ("3", "3")],
)
def test_arguments_of_earlier_calls_become_objects_where_they_can(sent: Any, rendered: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": sent}}
    (message,) = read_messages([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": rendered}


def test_a_models_own_slips_may_come_back() -> None:
    calls = [{"function": {"arguments": "{"}}, {"id": None, "function": {"name": "f"}}]
    said = {"role": "assistant", "content": None, "tool_calls": calls}
    heard = {"role": "tool", "name": "f", "content": [{"type": "text", "text": "4"}]}
    message, result = read_messages([said, heard])
    assert message["tool_calls"] == [
        {"type": "function", "function": {"name": "", "arguments": "{"}},
        {"type": "function", "function": {"name": "f", "arguments": {}}},
    ]
    assert result == {"role": "tool", "name": "f", "content": "4"}


def test_a_thought_comes_back_under_either_name() -> None:
    for name in ("reasoning_content", "reasoning"):
        (message,) = read_messages([{"role": "assistant", "content": "x", name: "Hm."}])
        assert message["reasoning_content"] == "Hm."


def test_arguments_can_be_written_out() -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": one}} for one in ({"a": "é"}, "{bro")]
    user, message = with_written_arguments(
        [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": calls}]
    )
    assert user == {"role": "user", "content": "x"}
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ['{"a": "é"}', "{bro"]
