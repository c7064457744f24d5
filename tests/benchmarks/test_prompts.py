"""Prompts have their length, and no two begin alike."""

from collections.abc import Callable

import pytest
from bench_models import find_model
from prompts import make_prompt
from serve_bench import token_counter


@pytest.fixture(scope="module")
def count() -> Callable[[str], int]:
    return token_counter(find_model("demo"))


@pytest.mark.parametrize("num_tokens", [32, 128, 1800])
def test_a_prompt_has_the_length_asked_for(num_tokens: int, count: Callable[[str], int]) -> None:
    assert [count(make_prompt(seed, num_tokens, count)) for seed in range(3)] == [num_tokens] * 3


def test_prompts_differ_by_seed_only(count: Callable[[str], int]) -> None:
    prompts = [make_prompt(seed, 32, count) for seed in range(50)]
    assert len(set(prompts)) == 50
    assert prompts == [make_prompt(seed, 32, count) for seed in range(50)]
