"""Hermes tool calls in text: whole calls come out, everything else stays text, however the text is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenyard.http.toolcalls import ToolCallParser
from tokenyard.http.turns import Call, Text, gather

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n</tool_call>'
PARSED = Call("add", '{"a":1,"b":[2]}')


def parse(text: str, size: int | None = None, max_calls: int | None = None) -> tuple[str, list[Call]]:
    """Shown text and calls, from pushes of `size` characters."""
    parser = ToolCallParser(max_calls)
    size = size or max(1, len(text))
    parts = [part for at in range(0, len(text), size) for part in parser.push(text[at : at + size])] + parser.flush()
    turn = gather(parts)
    assert parser.num_calls == len(turn.calls)
    return turn.text, turn.calls


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("Just text.", "Just text.", []),
        (" \n", " \n", []),
        (ADD, "", [PARSED]),
        (f"Sure.\n{ADD}", "Sure.", [PARSED]),
        (f"{ADD}\n{ADD}\n", "", [PARSED, PARSED]),
        (ADD.removesuffix("</tool_call>"), "", [PARSED]),
        ("a <tool_call>\n{broken</tool_call> b", "a <tool_call>\n{broken</tool_call> b", []),
        (f"<tool_call>1</tool_call>{ADD}", "<tool_call>1</tool_call>", [PARSED]),
        ('<tool_call>{"name": "add", "arguments": {', '<tool_call>{"name": "add", "arguments": {', []),
        ('<tool_call>{"name": 1}</tool_call>', '<tool_call>{"name": 1}</tool_call>', []),
        ("x < y <tool", "x < y <tool", []),
    ],
)
def test_calls_and_text_are_told_apart(text: str, shown: str, calls: list[Call], size: int) -> None:
    assert parse(text, size) == (shown, calls)


def test_a_limit_drops_what_follows() -> None:
    assert parse(f"{ADD} and {ADD}", 5, max_calls=1) == ("", [PARSED])


@given(
    st.lists(st.sampled_from(["<tool_call>", "</tool_call>", '{"name": "f"}', "x", " ", "<", "\n"]), max_size=12),
    st.integers(1, 20),
)
def test_pieces_do_not_depend_on_the_cut(tokens: list[str], size: int) -> None:
    text = "".join(tokens)
    assert parse(text, size) == parse(text)


@given(st.text(max_size=60))
def test_text_without_marks_passes_whole(text: str) -> None:
    assert parse(text, 7) == (text, [])


def test_text_is_shown_as_soon_as_it_cannot_be_a_call() -> None:
    parser = ToolCallParser()
    assert parser.push("Hello") == [Text("Hello")]
    assert parser.push(" <tool") == []
    assert parser.push("box>") == [Text(" <toolbox>")]


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3))
def test_arguments_survive(arguments: dict[str, int | str]) -> None:
    call = json.dumps({"name": "f", "arguments": arguments})
    shown, (parsed,) = parse(f"<tool_call>{call}</tool_call>")
    assert shown == ""
    assert json.loads(parsed.arguments) == arguments
