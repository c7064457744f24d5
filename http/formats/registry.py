"""Which format of tool calls and of reasoning a model speaks: read off its chat template's text, or told by name."""

from collections.abc import Mapping
from typing import NamedTuple

from tokenyard.http.formats.marked import read_hermes, read_text
from tokenyard.http.formats.parser import FormatParser, Read
from tokenyard.http.formats.reading import Reading, Schema, Steps
from tokenyard.http.formats.thoughts import Marks, read_thought, thought_marks, unfinished
from tokenyard.http.turns import TurnParser


class Format(NamedTuple):
    """One way to write tool calls."""

    read: Read
    """Reads a turn behind its thought."""
    marks: tuple[str, ...]
    """What it is made of; where these are special tokens, they must come through as text."""
    signs: tuple[str, ...]
    """A chat template that holds all of these teaches this format."""


FORMATS: dict[str, Format] = {
    "hermes": Format(read_hermes, ("<tool_call>", "</tool_call>"), ("<tool_call>",)),
}
"""By the name that --tool-format takes. The first whose signs a template holds is the model's: the rarer come first."""


class Speech(NamedTuple):
    """How one model's turns are written."""

    format: Format | None
    """Of its tool calls, if it knows any."""
    thought: Marks | None
    """Around its reasoning, if it may reason."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that must reach the parser, also where they are special tokens."""
        return (self.format.marks if self.format else ()) + (self.thought or ())

    def parser(
        self, prompt: str, continued: str, tools: Mapping[str, Schema] | None, max_calls: int | None
    ) -> TurnParser | None:
        """Reads a turn that goes on where this prompt ends, and with it the text `continued`, if any.

        Without tools, calls are text. None if all is text.
        """
        read = read_text if tools is None or self.format is None else self.format.read
        if (marks := self.thought) is None:
            return None if read is read_text else FormatParser(read, tools or {}, max_calls=max_calls)

        def read_both(reading: Reading) -> Steps[None]:
            yield from read_thought(reading, marks)
            yield from read(reading)

        begun = unfinished(prompt, continued, marks)
        return FormatParser(read_both, tools or {}, begun=begun, max_calls=max_calls)


def recognise(template: str, name: str | None = None) -> Speech:
    """The speech that a chat template teaches, with calls in the format of this name if one is given."""
    if name is not None:
        form: Format | None = FORMATS[name]
    else:
        form = next((one for one in FORMATS.values() if all(sign in template for sign in one.signs)), None)
    return Speech(form, thought_marks(template))
