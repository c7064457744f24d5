"""Filling in the middle: how the models that learned it want what comes before and after, by their tokenizers' tokens.

Knows no requests.
"""

from typing import Any, NamedTuple

from tokenizers import Tokenizer

PREFIX, SUFFIX = "{prefix}", "{suffix}"


class Format(NamedTuple):
    """One family's way."""

    parts: tuple[str, ...]
    """Special tokens, and where the two texts go."""
    ends: tuple[str, ...]
    """Tokens that end the middle; an instruct model's own end of turn need not be among them."""


FORMATS = (
    # Qwen2.5-Coder and CodeGemma (their model cards).
    Format(
        ("<|fim_prefix|>", PREFIX, "<|fim_suffix|>", SUFFIX, "<|fim_middle|>"),
        ("<|endoftext|>", "<|fim_pad|>", "<|file_sep|>", "<|file_separator|>", "<|repo_name|>"),
    ),
    # StarCoder, StarCoder2, Granite code (bigcode's model cards).
    Format(
        ("<fim_prefix>", PREFIX, "<fim_suffix>", SUFFIX, "<fim_middle>"),
        ("<|endoftext|>", "<fim_pad>", "<file_sep>"),
    ),
    # SantaCoder.
    Format(("<fim-prefix>", PREFIX, "<fim-suffix>", SUFFIX, "<fim-middle>"), ("<|endoftext|>", "<fim-pad>")),
    # CodeLlama (arXiv:2308.12950; transformers' CodeLlamaTokenizer).
    Format(("▁<PRE>", PREFIX, "▁<SUF>", SUFFIX, "▁<MID>"), ("▁<EOT>",)),
    Format(("<PRE>", PREFIX, "<SUF>", SUFFIX, "<MID>"), ("<EOT>",)),
    # DeepSeek-Coder (its model card).
    Format(("<｜fim▁begin｜>", PREFIX, "<｜fim▁hole｜>", SUFFIX, "<｜fim▁end｜>"), ("<｜end▁of▁sentence｜>",)),
    # Codestral (mistral-common): what comes after goes first.
    Format(("[SUFFIX]", SUFFIX, "[PREFIX]", PREFIX), ("</s>",)),
)


class Infill(NamedTuple):
    """A tokenizer's way."""

    parts: list[int | str]
    """Ids, and where the two texts go."""
    end_ids: list[int]

    def join(self, prefix: list[int], suffix: list[int]) -> list[int]:
        """The prompt after which the middle follows."""
        texts = {PREFIX: prefix, SUFFIX: suffix}
        return [one for part in self.parts for one in (texts[part] if isinstance(part, str) else (part,))]


def recognise(tokenizer: Tokenizer) -> Infill | None:
    """The way whose tokens this vocabulary has; None for most models."""
    for parts, ends in FORMATS:
        ids: list[Any] = [part if part in (PREFIX, SUFFIX) else tokenizer.token_to_id(part) for part in parts]
        if None not in ids:
            found = (tokenizer.token_to_id(end) for end in ends)
            return Infill(ids, [end for end in found if end is not None])
    return None
