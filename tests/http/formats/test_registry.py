"""Every format: what it reads, that cuts do not matter, that nothing raises, and that time is linear in the text."""

import json
from typing import Any

import pytest
from formats import ARGUMENTS, CALLS
from hypothesis import given
from hypothesis import strategies as st
from turns import feed

from tokenyard.http.formats.registry import FORMATS, Speech, recognise
from tokenyard.http.formats.source import Source
from tokenyard.http.formats.thoughts import THOUGHT_MARKS, Marks
from tokenyard.http.turns import Call, Turn, TurnParser, gather

THINK = THOUGHT_MARKS[0]
TOOLS: dict[str, Any] = {
    "add": {"properties": {"a": {"type": "integer"}, "note": {"type": "string"}, "more": {"type": ["array", "null"]}}},
    "now": {},
}
AT_BEGINNING = {"llama-json", "pythonic"}
"""Formats whose calls are calls at the turn's beginning only."""
NAMES = sorted(FORMATS)


def parser(name: str, tools: dict[str, Any] | None = TOOLS, thought: Marks | None = None, **kind: Any) -> TurnParser:
    prompt = kind.pop("prompt", "<|start|>assistant")
    form = FORMATS[name]._replace(new_id=None)  # what it makes is never twice the same
    made = Speech(form, thought).parser(prompt, kind.pop("continued", ""), tools, kind.pop("max_calls", None))
    assert made is not None
    return made


def calls_of(turn: Turn) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in turn.calls]


def test_every_format_has_a_sample() -> None:
    assert set(CALLS) == set(FORMATS)


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize("name", NAMES)
def test_calls_are_read(name: str, size: int) -> None:
    turn = feed(parser(name), CALLS[name], size)
    assert calls_of(turn) == [("add", ARGUMENTS), ("now", {})]
    assert turn.text == ""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in AT_BEGINNING])
def test_tools_that_nobody_offered_are_passed_on(name: str) -> None:
    turn = feed(parser(name, {}), CALLS[name], 3)
    told = [name for name, _ in calls_of(turn)]
    assert told == ["add", "now"]
    assert list(json.loads(turn.calls[0].arguments)) == list(ARGUMENTS)


@pytest.mark.parametrize("name", sorted(AT_BEGINNING))
def test_without_a_mark_only_offered_tools_are_called(name: str) -> None:
    assert feed(parser(name, {}), CALLS[name], 3) == Turn(text=CALLS[name])
    assert feed(parser(name), f"See: {CALLS[name]}", 3) == Turn(text=f"See: {CALLS[name]}")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in AT_BEGINNING])
def test_text_around_calls(name: str) -> None:
    before = "<|channel|>final<|message|>Let me see.<|end|><|start|>assistant" if name == "harmony" else "Let me see.\n"
    turn = feed(parser(name), before + CALLS[name], 5)
    assert turn.text == "Let me see."
    assert calls_of(turn) == [("add", ARGUMENTS), ("now", {})]


@pytest.mark.parametrize("name", [name for name in NAMES if FORMATS[name].turn == ""])
def test_a_thought_comes_before(name: str) -> None:
    for begun, prompt in (("<think>\n", ""), ("", "<|assistant|><think>\n")):
        turn = feed(parser(name, thought=THINK, prompt=prompt), f"{begun}Two tools.\n</think>\n\n{CALLS[name]}", 3)
        assert turn.thought == "Two tools."
        assert calls_of(turn) == [("add", ARGUMENTS), ("now", {})]


@pytest.mark.parametrize("name", NAMES)
def test_one_call_only(name: str) -> None:
    turn = feed(parser(name, max_calls=1), CALLS[name] + " and so on", 4)
    assert calls_of(turn) == [("add", ARGUMENTS)]
    assert turn.text == ""


@pytest.mark.parametrize("name", NAMES)
def test_a_call_that_is_cut_off_ends(name: str) -> None:
    """Whatever is missing, the turn is the same for any cut, and every call that began has ended."""
    for end in range(0, len(CALLS[name]), 5):
        text = CALLS[name][:end]
        assert feed(parser(name), text, 3) == feed(parser(name), text)


def _pieces(name: str) -> list[str]:
    """What could confuse a format's parser: its own marks, alone and in pairs."""
    marks = [*FORMATS[name].marks, *THINK]
    loose = ["add", "now", "x", " ", "\n", "{", "}", "[", "]", "(", ")", '"', "\\", ":", ",", "=", "1", "to=", "<", "`"]
    return [*marks, *loose, '{"name": "add", "arguments": {', "functions.add:0", CALLS[name]]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_no_text_raises_and_no_cut_matters(name: str, data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(_pieces(name)) | st.text(max_size=4), max_size=24)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    reader = parser(name, thought=THINK)
    parts = [part for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) for part in reader.push(text[a:b])]
    turn = gather(parts + reader.flush())
    assert turn == feed(parser(name, thought=THINK), text) == feed(parser(name, thought=THINK), text, 1)
    assert reader.num_calls == len(turn.calls)


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(alphabet=st.characters(exclude_characters="<[{"), max_size=40))
def test_text_without_marks_comes_out_as_it_is(name: str, text: str) -> None:
    assert feed(parser(name), text, 3) == Turn(text=text)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["space", "words", "call", "open", "marks"])
def test_work_grows_with_the_text_only(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters that stay unread from push to push are looked at again: all in all, few for each character."""
    unread = 0
    feed_source = Source.feed

    def counted(self: Source, text: str) -> None:
        nonlocal unread
        feed_source(self, text)
        unread += len(self._text)

    monkeypatch.setattr(Source, "feed", counted)
    long = {
        "space": " \n" * 5_000,
        "words": "word " * 2_000,
        "call": CALLS[name].replace("say", "say " * 2_500),
        "open": CALLS[name][: CALLS[name].index("add") + 3] + " " * 10_000,
        "marks": "".join(FORMATS[name].marks) * 100,
    }[kind]
    feed(parser(name, thought=THINK), long, 4)
    assert unread < 40 * len(long)


def test_formats_are_recognised_by_what_templates_teach() -> None:
    taught = {
        "<|start|>assistant<|channel|>final<|message|>": "harmony",
        "'<|tool_call>call:' + name": "gemma4",
        "<|tool_calls_section_begin|>": "kimi",
        "<｜tool▁calls▁begin｜>\n```json": "deepseek-v3",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>": "deepseek-v3.1",
        "[TOOL_CALLS] + name + [ARGS]": "mistral-v11",
        "[TOOL_CALLS] [": "mistral-v3",
        "<tool_call>{name}\n<arg_key>": "glm",
        "<tool_call>\n<function=": "qwen-coder",
        '<tool_call>\n{"name": <function-name>': "hermes",
        "[func_name1(params_name1=params_value1)]": "pythonic",
        'Respond in the format {"name": function name, "parameters": dictionary of argument name': "llama-json",
    }
    for template, name in taught.items():
        assert recognise(template).format is FORMATS[name], template
    assert set(taught.values()) == set(FORMATS)
    assert recognise("{{ messages }}").format is None
    assert recognise("{{ messages }}", "kimi").format is FORMATS["kimi"]


def test_speech_without_calls_and_thoughts_needs_no_parser() -> None:
    assert Speech(FORMATS["hermes"], None).parser("", "", None, None) is None
    assert Speech(None, None).parser("", "", TOOLS, None) is None
    assert feed(parser("hermes", None, THINK), CALLS["hermes"], 3).text == CALLS["hermes"]
    assert feed(parser("harmony", None), CALLS["harmony"], 3).calls == []


def test_mistral_ids_are_as_its_template_wants_them() -> None:
    for name in ("mistral-v3", "mistral-v11"):
        reader = Speech(FORMATS[name], None).parser("", "", TOOLS, None)
        assert reader is not None
        ids = {call.id for call in feed(reader, CALLS[name]).calls}
        assert len(ids) == 2
        assert all(len(one) == 9 and one.isalnum() for one in ids)


def test_kimi_ids_are_its_own() -> None:
    assert [call.id for call in feed(parser("kimi"), CALLS["kimi"]).calls] == ["functions.add:0", "functions.now:1"]


def test_harmony_tells_thoughts_from_text() -> None:
    said = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>"
    for size in (1, 5, 1000):
        assert feed(parser("harmony"), said, size) == Turn(thought="Hm.", text="Yes.")
        assert feed(parser("harmony", None), said, size) == Turn(thought="Hm.", text="Yes.")
    prefill = "<|start|>assistant<|channel|>final<|message|>It is "
    assert feed(parser("harmony", prompt=prefill), "so.<|return|>") == Turn(text="so.")
    start = " to=functions.add<|channel|>commentary json<|message|>{}<|call|>"
    assert feed(parser("harmony"), start, 3) == Turn(calls=[Call("add", "{}")])


def test_a_thought_that_a_user_speaks_of_opens_none() -> None:
    prompt = "<|user|>What does <think> mean?<|assistant|>"
    assert feed(parser("hermes", thought=THINK, prompt=prompt), "A mark.") == Turn(text="A mark.")
    going_on = parser("hermes", thought=THINK, prompt=prompt + "<think>I", continued="<think>I")
    assert feed(going_on, " see.</think>A mark.") == Turn(thought="see.", text="A mark.")
