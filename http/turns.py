"""What a model says in one turn, in parts as they come: thoughts, text, and calls of tools.

Every API's answers are shaped from these parts, and every format of tool calls is read into them. Knows no HTTP and no
tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


class Thought(NamedTuple):
    """More of the reasoning that comes before the answer."""

    text: str


class Text(NamedTuple):
    """More of the answer."""

    text: str


class CallBegun(NamedTuple):
    """A tool is being called; its arguments follow."""

    number: int
    """Counts the turn's calls from 0."""
    name: str
    id: str = ""
    """The model's own, where its format has one."""


class CallArguments(NamedTuple):
    """More of a call's arguments: all of them joined are a JSON object, or whatever the model wrote in its place."""

    number: int
    text: str


class CallEnded(NamedTuple):
    """The call's arguments are whole."""

    number: int


class ToolsListed(NamedTuple):
    """What an MCP server offers to the model; comes before the turn."""

    server: str
    tools: list[dict[str, Any]]
    """name, description, input_schema, annotations."""
    error: str = ""
    """Why there are none, where the server could not be asked."""


class ServerCallBegun(NamedTuple):
    """A tool of an MCP server is being run here."""

    id: str
    server: str
    tool: str
    arguments: str
    """Whole, as the model wrote them."""
    approval_id: str = ""
    """The ApprovalAsked that a person has answered, if one was needed."""


class ServerCallEnded(NamedTuple):
    """It has given this."""

    id: str
    output: str
    is_error: bool


class ApprovalAsked(NamedTuple):
    """A person must allow this call before it is run; the answer ends here."""

    id: str
    server: str
    tool: str
    arguments: str


ServerPart = ToolsListed | ServerCallBegun | ServerCallEnded | ApprovalAsked
"""What happens between turns that one answer shows as one."""
Part = Thought | Text | CallBegun | CallArguments | CallEnded | ServerPart


class TurnParser(Protocol):
    """Reads one turn. How the text is cut into pushes does not change what comes of it; no text raises."""

    @property
    def num_calls(self) -> int:
        """Calls begun so far."""

    @property
    def thinking(self) -> bool:
        """Whether a thought has begun and not ended."""

    @property
    def settled(self) -> bool:
        """Whether all that comes is text, and nothing is held back: pushes return what they get."""

    def push(self, text: str) -> list[Part]:
        """The parts that are certain now, in order."""

    def flush(self) -> list[Part]:
        """The text has ended: the rest. Every call that began has ended then."""


class PlainText:
    """The parser of a model that only talks."""

    num_calls = 0
    thinking = False
    settled = True

    def push(self, text: str) -> list[Part]:
        return [Text(text)] if text else []

    def flush(self) -> list[Part]:
        return []


@dataclass
class Call:
    """One whole call."""

    name: str
    arguments: str = ""
    id: str = ""


@dataclass
class Turn:
    """One whole turn."""

    thought: str = ""
    text: str = ""
    calls: list[Call] = field(default_factory=list)


def gather(parts: Iterable[Part]) -> Turn:
    """The turn that these parts make."""
    turn = Turn()
    for part in parts:
        match part:
            case Thought(text):
                turn.thought += text
            case Text(text):
                turn.text += text
            case CallBegun(_, name, own_id):
                turn.calls.append(Call(name, id=own_id))
            case CallArguments(number, text):
                turn.calls[number].arguments += text
            case _:
                continue
    return turn
