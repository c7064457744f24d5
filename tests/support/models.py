"""What tests know of models without running one: the bundled tokenizer and a card to go with it."""

from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from tokenyard.broker import wire
from tokenyard.broker.wire import Card
from tokenyard.http.library import LoadedTokenizer

DEMO = str(Path(wire.__file__).parents[1] / "workers" / "demo_model")

CARD = Card(
    names=["demo", "alias"],
    source=DEMO,
    commit="c0ffee",
    context_length=2048,
    pool_tokens=4096,
    block_size=16,
    lane="paged",
    dtype="float32",
    device="cpu",
    vocab_size=2048,
    eos_token_ids=[2039, 2037],
    generation_config={"do_sample": False},
)


@cache
def demo_tokenizer() -> LoadedTokenizer:
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(DEMO)
    return LoadedTokenizer(tokenizer)
