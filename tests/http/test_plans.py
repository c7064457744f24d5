"""Bad words become tokens as vLLM makes them."""

from typing import Any

import pytest
from models import CARD, demo_tokenizer

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import MAX_RUN_TOKENS, Processors
from tokenyard.http.plans import make_plans
from tokenyard.http.prompt import Prompt, Prompter
from tokenyard.http.schemas import parse_completion


def processors(**fields: Any) -> Processors | None:
    request = parse_completion({"model": "demo", "prompt": "x", **fields})
    (plan,) = make_plans(request, Prompter(CARD, demo_tokenizer()), [Prompt([1, 2], continued=True)])
    return plan.job.params.processors


def encode(text: str) -> list[int]:
    ids: list[int] = demo_tokenizer().backend.encode(text, add_special_tokens=False).ids
    return ids


def test_a_bad_word_is_one_at_the_beginning_of_a_text_and_in_its_midst() -> None:
    found = processors(bad_words=["the", " Paris"])
    assert found is not None
    assert found.bad_words[0] == encode("the")
    assert encode(" the") in found.bad_words
    assert encode("Paris") in found.bad_words
    assert all(len(word) > 0 for word in found.bad_words)


def test_a_space_that_is_a_token_of_its_own_makes_no_second_form() -> None:
    word = next(one for one in ("qzx", "zzkq", "xqzj", "~#") if len(encode(" " + one)) != len(encode(one)))
    found = processors(bad_words=[word])
    assert found is not None
    assert found.bad_words == [encode(word)]


def test_bad_words_come_beside_bad_words_ids() -> None:
    found = processors(bad_words=["the"], generation_config={"bad_words_ids": [[5, 6]]})
    assert found is not None
    assert found.bad_words[:2] == [[5, 6], encode("the")]


@pytest.mark.parametrize("word", ["  ", "~" * 3 * MAX_RUN_TOKENS])
def test_words_of_no_or_too_many_tokens_are_refused(word: str) -> None:
    with pytest.raises(TokenyardError, match="tokens") as caught:
        processors(bad_words=["the", word])
    assert caught.value.param == "bad_words.1"
