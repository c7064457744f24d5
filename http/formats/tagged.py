"""Formats that write each argument between tags of its own, as text: JSON is made of it, with the tool's schema.

Each function reads a turn behind its thought (see reading.py).
"""

from typing import NamedTuple

from tokenyard.http.formats.parser import FormatParser, Read
from tokenyard.http.formats.reading import Reading
from tokenyard.http.formats.source import Sink, Steps
from tokenyard.http.formats.values import Schema, dumps, is_free_text, property_of, value_of
from tokenyard.http.turns import gather


class Tags(NamedTuple):
    """What stands around a call and its arguments."""

    call: tuple[str, ...]
    """Before the tool's name."""
    arguments: str
    """Behind the tool's name, if anything."""
    key: str
    key_end: str
    value: str
    """Before a value, if anything."""
    value_end: str
    ends: tuple[str, ...]
    """Of the call, all of them."""
    on_lines: bool
    """Whether a value stands on lines of its own."""

    @property
    def marks(self) -> tuple[str, ...]:
        texts = (*self.call, self.key, self.key_end, self.value, self.value_end, *self.ends)
        return tuple(text for text in texts if len(text) > 1)


QWEN_CODER = Tags(
    call=("<tool_call>", "<function="),
    arguments=">",
    key="<parameter=",
    key_end=">",
    value="",
    value_end="</parameter>",
    ends=("</function>", "</tool_call>"),
    on_lines=True,
)
GLM = Tags(
    call=("<tool_call>",),
    arguments="",
    key="<arg_key>",
    key_end="</arg_key>",
    value="<arg_value>",
    value_end="</arg_value>",
    ends=("</tool_call>",),
    on_lines=False,
)


def read_qwen_coder(reading: Reading) -> Steps[None]:
    """`<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`: Qwen3-Coder, Qwen 3.5."""
    yield from _read_tagged(reading, QWEN_CODER, read_qwen_coder)


def read_glm(reading: Reading) -> Steps[None]:
    """`<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`: GLM-4.5 and later."""
    yield from _read_tagged(reading, GLM, read_glm)


def _read_tagged(reading: Reading, tags: Tags, read: Read) -> Steps[None]:
    while True:
        yield from reading.text_until(tags.call[:1])
        if not (yield from _read_call(reading, tags, read)):
            reading.show()


def _read_call(reading: Reading, tags: Tags, read: Read) -> Steps[bool]:
    for mark in tags.call[1:]:
        if not (yield from reading.sign(mark)):
            return False
    yield from reading.space()
    name = yield from reading.name()
    if not name or (tags.arguments and not (yield from reading.take(tags.arguments))):
        return False
    tag = yield from reading.sign(tags.key, *tags.ends)
    if not tag:
        return False
    if name not in reading.tools:
        return (yield from _read_unknown(reading, tags, read, name, whole=tag == tags.ends[-1]))
    reading.begin_call(name)
    separator = "{"
    while tag == tags.key:
        yield from _read_argument(reading, tags, reading.tools[name], separator)
        separator = ", "
        tag = yield from reading.sign(tags.key, *tags.ends)
    reading.argue("{}" if separator == "{" else "}")
    reading.end_call()
    for mark in tags.ends:
        yield from reading.sign(mark)
    reading.drop()
    return True


def _read_argument(reading: Reading, tags: Tags, parameters: Schema, separator: str) -> Steps[None]:
    """One key and its value, written behind the separator. A text goes out while it comes."""
    pieces: list[str] = []
    yield from reading.copy_until((tags.key_end,), pieces.append)
    key = "".join(pieces).strip()
    if tags.value:
        yield from reading.sign(tags.value)
    schema = property_of(parameters, key)
    reading.argue(f"{separator}{dumps(key)}: ")
    if is_free_text(schema):
        reading.argue('"')
        sink: Sink = lambda text: reading.argue(dumps(text)[1:-1])  # noqa: E731
        yield from reading.copy_until((tags.value_end,), OnLines(sink) if tags.on_lines else sink)
        reading.argue('"')
    else:
        pieces.clear()
        yield from reading.copy_until((tags.value_end,), pieces.append)
        reading.argue(dumps(value_of("".join(pieces).strip(), schema)))


def _read_unknown(reading: Reading, tags: Tags, read: Read, name: str, *, whole: bool) -> Steps[bool]:
    """A call of a tool that nobody offered: read once it is whole, as if somebody had."""
    if not whole:
        reading.hold((yield from reading.copy_until(tags.ends[-1:], reading.hold)))
    parser = FormatParser(read, {name: {}})
    turn = gather(parser.push(reading.held) + parser.flush())
    if len(turn.calls) != 1:
        return False
    reading.whole_call(turn.calls[0])
    return True


class OnLines:
    """Passes text on without one line break at its beginning and one at its end."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._begun = False
        self._held = ""

    def __call__(self, text: str) -> None:
        if not self._begun:
            text = text.removeprefix("\n")
            self._begun = True
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        if shown := text.removesuffix("\n"):
            self._sink(shown)
