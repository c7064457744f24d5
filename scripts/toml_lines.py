"""Where in a TOML file a key stands, which the standard library's parser does not tell.

TOML is a language of lines: the first prefix of a file's lines that reads and holds the key ends with the key's line.
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenyard.broker.errors import SetupError

PLACE = re.compile(r"(?P<words>.*) \(at (line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)
"""How tomllib ends its words."""
Keys = Sequence[str | int]
"""The way to a value: names of tables and keys, and places in arrays of tables."""


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """The tables and the text. Raises SetupError that names the line."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SetupError(f"{path} line {line}: it is not UTF-8") from error
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"{path} {_syntax_words(str(error), text)}") from error


def _syntax_words(words: str, text: str) -> str:
    place = PLACE.fullmatch(words)
    if place is None:
        return f"does not read as TOML: {words}"
    line = place["line"] or str(len(text.splitlines()))
    column = f", column {place['column']}" if place["column"] else ""
    return f"line {line}{column}: {place['words']}"


def line_of(text: str, keys: Keys) -> int:
    """The line, from 1, where the value at the end of this way begins; of the last table on the way that is there."""
    lines = text.split("\n")
    found = 1
    depth = before = 0
    for count in range(1, len(lines) + 1):
        try:
            tables = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue  # in the midst of a value that takes several lines
        if (reached := _depth(tables, keys)) > depth:
            depth, found = reached, before + 1
        before = count
    return found


def _depth(value: Any, keys: Keys) -> int:
    """How far one gets on this way."""
    for depth, key in enumerate(keys):
        try:
            value = value[key]
        except (LookupError, TypeError):
            return depth
    return len(keys)
