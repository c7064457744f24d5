"""What the synthetic workers of the relay benchmark say: for each stream tokens whose text is known beforehand.

So a client can tell whether anything was lost, repeated or out of order. Pure, but for the tokenizer's file.
"""

import re
from functools import cache
from itertools import accumulate
from pathlib import Path

from tokenizers import Tokenizer

from tokenyard.broker import wire
from tokenyard.broker.wire import Card

DEMO = Path(wire.__file__).parents[1] / "workers" / "demo_model"
MODEL = "relay"
CARD = Card(
    names=[MODEL],
    source=str(DEMO),
    commit="",
    context_length=1 << 20,
    pool_tokens=1 << 20,
    block_size=16,
    lane="paged",
    dtype="float32",
    device="cpu",
    vocab_size=2048,
    eos_token_ids=[2039],
)
"""The demo model's tokenizer, with a context that no stream here fills."""
STRIDE, SPREAD = 17, 1009
"""Primes: from token to token, and from stream to stream, so that neighbours say different things."""


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


@cache
def words() -> list[int]:
    """Tokens whose text stands in JSON as it is: a client need not parse events to find it."""
    backend = tokenizer()
    texts = {token_id: backend.decode([token_id]) for token_id in range(backend.get_vocab_size())}
    return [token_id for token_id, text in texts.items() if re.fullmatch(r"[A-Za-z0-9 ,.]+", text)]


def said(seed: int, count: int, first: int = 0) -> list[int]:
    """So many tokens of the stream of that seed, from the first one on or a later one."""
    known = words()
    return [known[(seed * SPREAD + index * STRIDE) % len(known)] for index in range(first, first + count)]


def text_of(seed: int, count: int) -> tuple[str, list[int]]:
    """The text of a stream's first tokens, and of each token the character where it ends."""
    backend, ids = tokenizer(), said(seed, count)
    lengths = [len(backend.decode([token_id])) for token_id in ids]
    return backend.decode(ids), list(accumulate(lengths))
