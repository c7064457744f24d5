"""Prompts of an exact length in tokens, each different from its first word on, so that no cached prefix helps."""

import random
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
    random_words = random.Random(seed)
    words = WORDS.split()
    text = " ".join(random_words.choices(words, k=2))
    while count(longer := f"{text} {random_words.choice(words)}") <= num_tokens:
        text = longer
    while count(longer := f"{text} a") <= num_tokens:
        text = longer
    return text
