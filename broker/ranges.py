"""What a field of a message may hold beyond its type; codec.py refuses all else. Part of the wire contract.

A plain `int` holds what 64 signed bits do, a plain `float` any finite number, a plain `str` or `bytes` what a frame
does, and `Any` what JSON can say, and bytes.
"""

from math import inf, nextafter
from typing import Annotated, Any, NamedTuple


class Range(NamedTuple):
    """Of a number, both ends included."""

    least: float
    most: float


class Length(NamedTuple):
    """Of bytes, or of a list: how many there may be."""

    least: int
    most: int
    unit: int = 1
    """A multiple of it."""


class Keys(NamedTuple):
    """Of a map: what stands at those keys that are known; at others, anything."""

    of: tuple[tuple[str, Any], ...]


class Parts(NamedTuple):
    """Of a list that is a tuple: what stands where; more may follow."""

    of: tuple[Any, ...]


INT64 = Range(-(2**63), 2**63 - 1)
FINITE = Range(nextafter(-inf, 0), nextafter(inf, 0))

INC_BYTES = 8
"""An incarnation: what names one life of one process."""
SECRET_BYTES = 16
"""What an incarnation is the hash of (identity.py)."""
ID_BYTES = 4
"""Of a token id where many travel together."""
KEY_BYTES = 16
"""128 bits: a collision would hand one user's KV block to another, so the odds must stay negligible (2^-64 at 2^32)."""
MAX_PREFIX_KEYS = 1024
"""Of one job: 16,384 tokens at 16 a block; fronts send the first 128."""
MAX_NAMES = 1024
"""Of one model: each is given by hand."""
MAX_TOP_LOGPROBS = 20
"""OpenAI's limit; and completions'."""
MAX_CAPACITY = 1 << 16
"""Sequences at once: 256 times the largest decode bucket planned, and yet no worker that draws all jobs to itself."""
MAX_WAIT_MS = 3_600_000
"""An hour: six times as long as jobs wait for a model that loads."""

Natural = Annotated[int, Range(0, 2**63 - 1)]
Positive = Annotated[int, Range(1, 2**63 - 1)]
Capacity = Annotated[int, Range(1, MAX_CAPACITY)]
TokenId = Annotated[int, Range(0, 2**32 - 1)]
"""Of any vocabulary; a worker knows its own."""
Seed = Annotated[int, Range(0, 2**64 - 1)]
Share = Annotated[float, Range(0, 1)]
NotNegative = Annotated[float, Range(0, nextafter(inf, 0))]
AboveZero = Annotated[float, Range(nextafter(0, 1), nextafter(inf, 0))]
Inc = Annotated[bytes, Length(INC_BYTES, INC_BYTES)]
MaybeInc = Annotated[bytes, Length(0, INC_BYTES, INC_BYTES)]
"""Empty: nobody's."""
Secret = Annotated[bytes, Length(0, SECRET_BYTES, SECRET_BYTES)]
"""Shown by who speaks for an incarnation; empty: it proves nothing, and is refused."""
PackedIds = Annotated[bytes, Length(0, 1 << 32, ID_BYTES)]
"""Token ids as little-endian u32."""
PrefixKey = Annotated[bytes, Length(KEY_BYTES, KEY_BYTES)]
NumTop = Annotated[int, Range(-1, MAX_TOP_LOGPROBS)]
"""-1: none."""
Milliseconds = Annotated[int, Range(0, MAX_WAIT_MS)]
Logit = Annotated[float, Range(-inf, inf)]
"""A model's own code may rule tokens out."""
