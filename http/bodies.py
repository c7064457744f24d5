"""Reads a request's body without holding up the others: a large one is parsed and checked in a thread.

Knows no fields: what a body must be is the caller's `parse`.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request

from tokenyard.http.schemas import parse_json

LARGE_BYTES = 1 << 16
"""Checking so much of the worst (one-letter messages) takes under 5 ms."""

Parsed = TypeVar("Parsed")


async def read_body(http: Request, parse: Callable[[dict[str, Any]], Parsed]) -> Parsed:
    """The body as `parse` makes it of a JSON object. Raises TokenyardError as both do."""
    body = await http.body()
    if len(body) <= LARGE_BYTES:
        return parse(parse_json(body))
    return await asyncio.to_thread(lambda: parse(parse_json(body)))
