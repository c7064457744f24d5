"""Text to token ids, in memory that is bounded by the context and not by the text. Knows no requests.

The tokenizer takes some 200 bytes a token while it encodes (measured), so 8 MB of letters would take 1.6 GB.
"""

from itertools import accumulate

from tokenizers import Tokenizer

WHOLE_CHARS = 1 << 18
"""Texts up to here are encoded whole: at most 50 MB. A context of 64k tokens is about as long."""
SLICE_CHARS = 1 << 15
"""Longer texts are counted in slices first: 6 MB at most."""
SLACK = 1.25
"""A cut may split a word, and each slice count some tokens more than the whole has: a handful, in thousands."""


def encode(backend: Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    """All of a text. Releases the GIL, as of the library's ways only batches do (measured: 1.5 s against 20 ms)."""
    (encoding,) = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    ids: list[int] = encoding.ids
    return ids


def is_surely_longer(backend: Tokenizer, text: str, num_tokens: int) -> bool:
    """Whether a text has more tokens than that, found without encoding much more; False for texts near the limit."""
    if len(text) <= max(WHOLE_CHARS, num_tokens):
        return False
    starts = range(0, len(text), SLICE_CHARS)
    return any(count > num_tokens * SLACK for count in accumulate(_count(backend, text, start) for start in starts))


def count_in_slices(backend: Tokenizer, text: str) -> int:
    """Tokens of a text of any length, to within a handful."""
    return sum(_count(backend, text, start) for start in range(0, len(text), SLICE_CHARS))


def end_of(backend: Tokenizer, text: str, num_tokens: int) -> str:
    """So much of a text's end that its last so many tokens are those of the whole."""
    count = 0
    for start in range(len(text) - SLICE_CHARS, 0, -SLICE_CHARS):
        count += _count(backend, text, start)
        if count > num_tokens * SLACK:
            return text[start:]
    return text


def _count(backend: Tokenizer, text: str, start: int) -> int:
    (encoding,) = backend.encode_batch_fast([text[start : start + SLICE_CHARS]], add_special_tokens=False)
    return len(encoding)
