"""Formats whose arguments are JSON. Each function reads a turn behind its thought (see reading.py)."""

from collections.abc import Callable
from typing import NamedTuple

from tokenyard.http.formats.reading import Reading
from tokenyard.http.formats.source import Steps

HERMES = ("<tool_call>", "</tool_call>")
PYTHON_TAG = "<|python_tag|>"
MISTRAL = ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")


def read_text(reading: Reading) -> Steps[None]:
    """No calls."""
    yield from reading.rest()


def read_hermes(reading: Reading) -> Steps[None]:
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3, and many more."""
    while True:
        yield from reading.text_until(HERMES[:1])
        if (yield from reading.json_call(unknown=True)):
            yield from reading.sign(HERMES[1])
            reading.drop()
        else:
            reading.show()


def read_llama_json(reading: Reading) -> Steps[None]:
    """`{"name": …, "parameters": {…}}`, more of them behind `;` or white space: Llama 3.

    No mark tells a call from any other JSON, so it is one only at the turn's beginning, and of a known tool.
    """
    yield from reading.sign(PYTHON_TAG)
    while (yield from reading.json_call(unknown=False)):
        yield from reading.sign(";", ",")
        reading.drop()
    yield from reading.rest()


def read_mistral(reading: Reading) -> Steps[None]:
    """`[TOOL_CALLS][{"name": …, "arguments": {…}}, …]` (to v7), `[TOOL_CALLS]name[ARGS]{…}` for each call (v11 on)."""
    while True:
        yield from reading.text_until(MISTRAL[:1])
        if (yield from reading.sign("[")):
            called = yield from _read_list(reading)
        else:
            called = yield from _read_mistral_call(reading)
        if called:
            reading.drop()
        else:
            reading.show()


def _read_list(reading: Reading) -> Steps[bool]:
    while (yield from reading.json_call(unknown=True)):
        if (yield from reading.sign(",", "]")) != ",":
            return True
    return False


def _read_mistral_call(reading: Reading) -> Steps[bool]:
    name = yield from reading.name()
    own_id = (yield from reading.name()) if (yield from reading.take("[CALL_ID]")) else ""
    yield from reading.take("[ARGS]")
    return (yield from reading.named_call(name, own_id))


class Section(NamedTuple):
    """The marks of a format that puts all calls of a turn in a section."""

    begin: str
    call_begin: str
    call_end: str
    end: str


DEEPSEEK = Section("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")
DEEPSEEK_SEPARATOR = "<｜tool▁sep｜>"
KIMI = Section("<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>")
KIMI_ARGUMENTS = "<|tool_call_argument_begin|>"


def read_deepseek(reading: Reading) -> Steps[None]:
    """A section of `name<｜tool▁sep｜>{…}` (V3.1) or `function<｜tool▁sep｜>name` and fenced JSON (V3, R1)."""
    yield from _read_section(reading, DEEPSEEK, _read_deepseek_call)


def _read_deepseek_call(reading: Reading) -> Steps[bool]:
    name = yield from reading.name()
    if not (yield from reading.take(DEEPSEEK_SEPARATOR)):
        return False
    if name != "function" or (yield from reading.at("{")):
        return (yield from reading.named_call(name))
    name = yield from reading.name()
    yield from reading.sign("```json")
    called = yield from reading.named_call(name)
    if called:
        yield from reading.sign("```")
    return called


def read_kimi(reading: Reading) -> Steps[None]:
    """A section of `functions.name:0<|tool_call_argument_begin|>{…}`, of which what is before the mark is the id."""
    yield from _read_section(reading, KIMI, _read_kimi_call)


def _read_kimi_call(reading: Reading) -> Steps[bool]:
    name = yield from reading.name()
    own_id = name
    if (yield from reading.take(":")):
        own_id += ":" + (yield from reading.name())
    if not (yield from reading.sign(KIMI_ARGUMENTS)):
        return False
    return (yield from reading.named_call(name.removeprefix("functions."), own_id))


def _read_section(reading: Reading, marks: Section, read_call: Callable[[Reading], Steps[bool]]) -> Steps[None]:
    while True:
        mark = yield from reading.text_until((marks.begin, marks.call_begin))
        if mark == marks.begin:
            yield from reading.sign(marks.call_begin)
        yield from reading.space()
        if (yield from read_call(reading)):
            yield from reading.sign(marks.call_end)
            yield from reading.sign(marks.end)
            reading.drop()
        else:
            reading.show()
