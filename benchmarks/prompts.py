"""Prompts of an exact length in tokens, each different from its first word on, so that no cached prefix helps."""

import random
from bisect import bisect_right
from collections.abc import Callable

WORDS = (
    "river stone paper window green quiet morning letter garden silver market winter seven yellow train music "
    "number bridge copper island night story bread summer little water clock forest simple orange north village"
)
"""Common English words, so that any tokenizer cuts the text as it would cut a user's."""


def make_prompt(seed: int, num_tokens: int, count: Callable[[str], int]) -> str:
    """Random words up to `num_tokens` as `count` counts them; what is missing at the end is filled up with ' a'.

    The same seed gives the same prompt. Some tokenizers cannot hit a length exactly: then it is the closest below.
    """
    words = random.Random(seed).choices(WORDS.split(), k=num_tokens)  # a word is a token at the least
    num_words = bisect_right(range(1, num_tokens + 1), num_tokens, key=lambda length: count(" ".join(words[:length])))
    text = " ".join(words[:num_words])
    while count(longer := f"{text} a") <= num_tokens:
        text = longer
    return text
