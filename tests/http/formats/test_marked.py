"""Formats between marks: whole calls come out, everything else stays text, however the text is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turns import known, parse

from tokenyard.http.formats.marked import read_hermes
from tokenyard.http.formats.parser import FormatParser
from tokenyard.http.turns import Call, CallArguments, CallBegun, CallEnded, Text, Turn

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n</tool_call>'
CALL = Call("add", '{"a": 1, "b": [2]}')


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("Just text.", "Just text.", []),
        (" \n", " \n", []),
        (ADD, "", [CALL]),
        (f"Sure.\n{ADD}", "Sure.", [CALL]),
        (f"{ADD}\n{ADD}\n", "", [CALL, CALL]),
        (ADD.removesuffix("</tool_call>"), "", [CALL]),
        ("a <tool_call>\n{broken</tool_call> b", "a <tool_call>\n{broken</tool_call> b", []),
        (f"<tool_call>1</tool_call>{ADD}", "<tool_call>1</tool_call>", [CALL]),
        ('<tool_call>{"name": "sub", "arguments": {', '<tool_call>{"name": "sub", "arguments": {', []),
        ('<tool_call>{"name": "add", "arguments": {"a', "", [Call("add", '{"a')]),
        ('<tool_call>{"name": 1}</tool_call>', '<tool_call>{"name": 1}</tool_call>', []),
        (f"Write `{ADD}` to add.", f"Write `{ADD}` to add.", []),
        ('<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>!', "!", [Call("add", '{"a":1}')]),
        ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [Call("add", '{"a": 1}')]),
        ('<tool_call>{"name": "sub", "arguments": {"a": "}<"}}</tool_call>', "", [Call("sub", '{"a":"}<"}')]),
        ('<tool_call>{"name": "add"}</tool_call>', "", [Call("add", "{}")]),
        ("x < y <tool", "x < y <tool", []),
    ],
)
def test_calls_and_text_are_told_apart(text: str, shown: str, calls: list[Call], size: int) -> None:
    assert parse(read_hermes, text, size) == Turn(text=shown, calls=calls)


def test_a_limit_drops_what_follows() -> None:
    assert parse(read_hermes, f"{ADD} and {ADD}", 5, max_calls=1) == Turn(calls=[CALL])


def test_text_is_shown_as_soon_as_it_cannot_be_a_call() -> None:
    parser = FormatParser(read_hermes, known("add"))
    assert parser.push("Hello") == [Text("Hello")]
    assert parser.push(" <tool") == []
    assert parser.push("box>") == [Text(" <toolbox>")]


def test_arguments_of_a_known_tool_come_while_they_are_written() -> None:
    parser = FormatParser(read_hermes, known("add"))
    assert parser.push('<tool_call>{"name": "add", "arguments": ') == []
    assert parser.push('{"a": ') == [CallBegun(0, "add"), CallArguments(0, '{"a": ')]
    assert parser.push("1}") == [CallArguments(0, "1}"), CallEnded(0)]
    assert parser.push("}</tool_call>") == []


def test_of_an_unknown_tool_nothing_is_said_before_its_call_is_whole() -> None:
    parser = FormatParser(read_hermes, known("add"))
    assert parser.push('<tool_call>{"name": "sub", "arguments": {"a": 1}') == []
    assert parser.push("}") == [CallBegun(0, "sub"), CallArguments(0, '{"a":1}'), CallEnded(0)]


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3), st.integers(1, 9))
def test_arguments_survive(arguments: dict[str, int | str], size: int) -> None:
    for name in ("add", "sub"):
        call = json.dumps({"name": name, "arguments": arguments})
        turn = parse(read_hermes, f"<tool_call>{call}</tool_call>", size)
        assert turn.text == ""
        assert json.loads(turn.calls[0].arguments) == arguments
