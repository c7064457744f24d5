"""What a tool gave, as text for a model: blocks of every kind in words, cut to a length, and unable to pass for more.

A tool's text is not trusted: what in it looks like one of the model's own marks (`<|im_end|>`, `</tool_response>`)
is broken up, so that no tool can end its own turn and begin another's.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from tokenyard.http.formats.values import dumps
from tokenyard.http.mcp.sdk import Result

BREAK = "\u200b"
"""A zero-width space: shown as nothing, and no part of any mark."""


def as_text(result: Result, max_chars: int) -> str:
    """All of a result's blocks. Never empty."""
    text = "\n".join(filter(None, map(_block, result.content)))
    if not text and result.structured is not None:
        text = dumps(result.structured)
    if result.is_error:
        text = f"Error: {text or 'the tool failed without a word'}"
    return cut(text or "(the tool gave nothing back)", max_chars)


def cut(text: str, max_chars: int) -> str:
    """The beginning of a text that is too long, and how much is missing."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}\n... ({len(text) - max_chars:,} more characters were cut)"


def _block(block: dict[str, Any]) -> str:
    kind = block.get("type")
    if kind == "text":
        return str(block.get("text", ""))
    if kind in ("image", "audio"):
        size = len(str(block.get("data", ""))) * 3 // 4
        return f"[{kind}, {block.get('mimeType', 'of unknown type')}, {size:,} bytes: this model cannot take it in]"
    if kind == "resource_link":
        return f"[resource {block.get('name', '')}: {block.get('uri', '')}]"
    if kind == "resource":
        resource = block.get("resource", {})
        return str(resource["text"]) if "text" in resource else f"[resource {resource.get('uri', '')}, not text]"
    return f"[{kind}]"


@lru_cache(maxsize=64)
def _pattern(marks: frozenset[str]) -> re.Pattern[str] | None:
    """Matches the first character of every mark, also of one that begins inside another.

    By first characters, which the search skips to: a tokenizer may have 6,000 marks, most of them `<unused..>`.
    """
    rests: dict[str, list[str]] = {}
    for mark in sorted(marks):
        if len(mark) > 1 and not mark.isspace():
            rests.setdefault(mark[0], []).append(re.escape(mark[1:]))
    ways = (f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items())
    return re.compile("|".join(ways)) if rests else None


def disarm(text: str, marks: Iterable[str]) -> str:
    """The text with every mark in it broken up after its first character."""
    pattern = _pattern(frozenset(marks))
    return pattern.sub(lambda found: found[0] + BREAK, text) if pattern else text


def disarm_all(value: Any, marks: Iterable[str]) -> Any:
    """A JSON value with every text in it disarmed."""
    if isinstance(value, str):
        return disarm(value, marks)
    if isinstance(value, list):
        return [disarm_all(one, marks) for one in value]
    if isinstance(value, dict):
        return {disarm(key, marks): disarm_all(one, marks) for key, one in value.items()}
    return value
