"""Turns read by the parsers of formats, from text cut in pieces."""

from collections.abc import Mapping
from typing import Any

from tokenyard.http.formats.parser import FormatParser, Read
from tokenyard.http.turns import Turn, TurnParser, gather


def known(*names: str) -> dict[str, dict[str, Any]]:
    """Tools that take anything."""
    return {name: {} for name in names}


def feed(parser: TurnParser, text: str, size: int | None = None) -> Turn:
    """The turn that pushes of `size` characters make."""
    size = size or max(1, len(text))
    parts = [part for at in range(0, len(text), size) for part in parser.push(text[at : at + size])] + parser.flush()
    turn = gather(parts)
    assert parser.num_calls == len(turn.calls)
    return turn


def parse(
    read: Read,
    text: str,
    size: int | None = None,
    *,
    tools: Mapping[str, Any] | None = None,
    begun: str = "",
    max_calls: int | None = None,
) -> Turn:
    """The turn read by one format's steps; the tool `add` is known unless others are."""
    parser = FormatParser(read, known("add") if tools is None else tools, begun=begun, max_calls=max_calls)
    return feed(parser, text, size)
