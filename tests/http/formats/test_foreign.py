"""A model's own response template: read by transformers' parser, and what that refuses is text."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turns import feed

from tokenyard.http.formats.registry import Speech, recognise
from tokenyard.http.turns import Call, Turn, TurnParser

TEMPLATE: dict[str, Any] = {
    "start_anchor": "<bot>",
    "fields": {
        "reasoning_content": {"open": "<hm>", "close": "</hm>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"<do (?P<name>\w+)>",
            "close": "</do>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": "<end>", "content": "text"},
    },
}
SPEECH = recognise("{{ messages }}", own=TEMPLATE)
PIECES = ["<do add>", "</do>", "<hm>", "</hm>", "{}", '{"a": 1}', "<end>", "<", "x ", "1"]
TOOLS: dict[str, Any] = {"add": {"properties": {"a": {"type": "integer"}}}}


def parser(prompt: str = "<bot>", tools: dict[str, Any] | None = TOOLS, max_calls: int | None = None) -> TurnParser:
    made = SPEECH.parser(prompt, "", tools, max_calls)
    assert made is not None
    return made


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("said", "turn"),
    [
        ("Hello there.", Turn(text="Hello there.")),
        ("<hm>Well.</hm>Hello.<end>", Turn(thought="Well.", text="Hello.")),
        ('<do add>{"a": "1"}</do>', Turn(calls=[Call("add", '{"a": 1}')])),
        (
            'Look: <do sub>{"é": []}</do><do add>{}</do>',
            Turn("", "Look: ", [Call("sub", '{"é": []}'), Call("add", "{}")]),
        ),
        ("Look: <do add>{bro</do> Done.", Turn(text="Look: <do add>{bro</do> Done.")),
        ('<do add>{"a": 1', Turn(text='<do add>{"a": 1')),
        ("a < b, <do", Turn(text="a < b, <do")),
        ("<hm>Well.</hm><do add>{bro</do>", Turn(thought="Well.", text="<do add>{bro</do>")),
        ("<hm>Cut of", Turn(thought="Cut of")),
    ],
)
def test_turns_are_read(said: str, turn: Turn, size: int) -> None:
    assert feed(parser(), said, size) == turn


def test_a_thought_that_the_prompt_opened() -> None:
    reader = parser("<user>hi<bot><hm>")
    assert reader.thinking
    assert feed(reader, "Well.</hm>Hello.") == Turn(thought="Well.", text="Hello.")


def test_limits_and_no_tools() -> None:
    call = '<do add>{"a": 1}</do>'
    assert feed(parser(max_calls=1), f"{call}{call}!") == Turn(calls=[Call("add", '{"a": 1}')])
    assert feed(parser(tools=None), f"{call}!").calls == []


@given(st.lists(st.sampled_from(PIECES), max_size=15))
def test_no_text_raises_and_no_cut_matters(pieces: list[str]) -> None:
    said = "".join(pieces)
    assert feed(parser(), said, 1) == feed(parser(), said, 4) == feed(parser(), said)


def test_long_white_space_takes_no_time() -> None:
    template = json.loads(json.dumps(TEMPLATE))
    template["fields"]["tool_calls"]["open_pattern"] = r"\s*<do (?P<name>\w+)>"
    reader = recognise("", own=template).parser("<bot>", "", TOOLS, None)
    assert reader is not None
    assert feed(reader, " " * 20_000 + "x", 4) == Turn(text=" " * 20_000 + "x")


def test_which_speech_goes_before() -> None:
    assert SPEECH.calls
    assert "</do>" in SPEECH.marks
    ours = recognise("<tool_call>", own=TEMPLATE)
    assert (ours.template, ours.calls) == (None, True)
    assert recognise("", own={"fields": 1}) == Speech(None, None)
    assert not recognise("", own={"fields": 1}).calls
