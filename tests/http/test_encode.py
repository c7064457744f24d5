"""Encoding in bounded memory: what is surely too long is found early, and nothing else is called so."""

import pytest
from models import demo_tokenizer

from tokenyard.http.encode import SLICE_CHARS, WHOLE_CHARS, count_in_slices, encode, end_of, is_surely_longer


class Counted:
    """A tokenizer that remembers how many characters it was given."""

    def __init__(self) -> None:
        self.num_chars = 0

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> object:
        self.num_chars += sum(map(len, texts))
        return demo_tokenizer().backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)


def test_a_far_too_long_text_is_found_by_its_beginning() -> None:
    backend = Counted()
    assert is_surely_longer(backend, "1 " * 500_000, 2048)  # type: ignore[arg-type]
    assert backend.num_chars == SLICE_CHARS


@pytest.mark.parametrize("words", ["word ", "1 + 2; ", "é", "a"])
def test_a_text_that_fits_is_never_called_longer(words: str) -> None:
    backend = demo_tokenizer().backend
    text = words * (2 * WHOLE_CHARS // len(words))
    num_tokens = len(encode(backend, text, False))
    assert not is_surely_longer(backend, text, num_tokens)
    assert is_surely_longer(backend, text, num_tokens // 3)


@pytest.mark.parametrize("words", ["word ", "1 + 2; ", "é"])
def test_a_long_text_is_counted_to_within_a_handful(words: str) -> None:
    backend = demo_tokenizer().backend
    text = words * (300_000 // len(words))
    num_tokens = len(encode(backend, text, False))
    assert num_tokens <= count_in_slices(backend, text) <= num_tokens * 1.001


def test_a_texts_end_has_the_tokens_of_the_whole() -> None:
    backend = demo_tokenizer().backend
    text = " ".join(map(str, range(60_000)))
    whole = encode(backend, text, False)
    end = end_of(backend, text, 5000)
    assert len(end) < len(text) / 2
    assert encode(backend, end, False)[-5000:] == whole[-5000:]
    assert end_of(backend, text, len(whole)) == text


def test_short_texts_are_not_counted() -> None:
    backend = Counted()
    assert not is_surely_longer(backend, "1 " * 2000, 10)  # type: ignore[arg-type]
    assert backend.num_chars == 0


def test_encoding_is_the_tokenizers_own() -> None:
    backend = demo_tokenizer().backend
    assert encode(backend, "Hello 🤖!", False) == backend.encode("Hello 🤖!", add_special_tokens=False).ids
