"""Incremental decoding: the pieces joined are the whole decoding, and no character is shown in halves."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import demo_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models

from tokenyard.http.detokenize import Detokenizer

TEXTS = ["Grüße, 世界! 👩‍👩‍👧 naïve café 🇫🇷", "plain words", "  two  spaces ", "ا\u0301e\u0301", "\n\n\ttabs", "🤖" * 5]


def byte_level() -> Tokenizer:
    return demo_tokenizer().backend


@cache
def byte_fallback() -> Tokenizer:
    """Sentencepiece's way: ▁ for a space, <0xNN> for bytes of what the vocabulary lacks, first space dropped."""
    words = ["▁hello", "▁world", "lo", "▁", "é", "x", "."]
    vocab = {token: index for index, token in enumerate(["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def decode(tokenizer: Tokenizer, ids: list[int], skip_special: bool) -> tuple[list[str], str]:
    detokenizer = Detokenizer(tokenizer, skip_special)
    return [detokenizer.push(token_id) for token_id in ids], detokenizer.flush()


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_whole_and_in_whole_characters(text: str) -> None:
    tokenizer = byte_level()
    pieces, tail = decode(tokenizer, tokenizer.encode(text, add_special_tokens=False).ids, True)
    assert "".join(pieces) == text
    assert tail == ""


# Single bytes are the first 256 tokens of both vocabularies (after <unk>): random ones make broken characters.
ids = st.lists(st.one_of(st.integers(0, 256), st.integers(0, 2047)), max_size=24)


@given(ids, st.booleans())
def test_any_byte_level_ids_equal_the_whole_decoding(token_ids: list[int], skip_special: bool) -> None:
    pieces, tail = decode(byte_level(), token_ids, skip_special)
    assert "".join(pieces) + tail == byte_level().decode(token_ids, skip_special_tokens=skip_special)


@given(
    st.lists(st.sampled_from(["▁hello", "▁world", "lo", "▁", "é", "x", ".", "<s>", "你", "🤖", "ß"]), max_size=24),
    st.booleans(),
)
def test_byte_fallback_of_whole_characters_equals_the_whole_decoding(tokens: list[str], skip_special: bool) -> None:
    tokenizer, token_ids = byte_fallback(), []
    for token in tokens:
        known = tokenizer.token_to_id(token)
        token_ids += [byte + 1 for byte in token.encode()] if known is None else [known]
    pieces, tail = decode(tokenizer, token_ids, skip_special)
    assert "".join(pieces) + tail == tokenizer.decode(token_ids, skip_special_tokens=skip_special)


@given(st.lists(st.integers(0, 264), max_size=24), st.booleans())
def test_broken_bytes_never_raise_and_spoil_nothing_after_them(token_ids: list[int], skip_special: bool) -> None:
    tokenizer = byte_fallback()
    after = [tokenizer.token_to_id(token) for token in (".", "▁hello", "▁world")]
    pieces, tail = decode(tokenizer, token_ids + after, skip_special)
    assert ("".join(pieces) + tail).endswith(". hello world")


def test_an_unfinished_character_waits_and_ends_as_a_replacement() -> None:
    tokenizer = byte_level()
    emoji = tokenizer.encode("🤖", add_special_tokens=False).ids
    assert len(emoji) > 1
    pieces, tail = decode(tokenizer, emoji[:-1], True)
    assert "".join(pieces) == ""
    assert set(tail) == {"\ufffd"}


def test_special_tokens_are_hidden_or_shown() -> None:
    (end,) = byte_level().encode("<|im_end|>", add_special_tokens=False).ids
    assert decode(byte_level(), [end], True)[0] == [""]
    assert decode(byte_level(), [end], False)[0] == ["<|im_end|>"]


def test_context_keeps_the_space_of_a_continued_text() -> None:
    tokenizer = byte_fallback()
    hello, world = tokenizer.token_to_id("▁hello"), tokenizer.token_to_id("▁world")
    assert Detokenizer(tokenizer).push(world) == "world"
    assert Detokenizer(tokenizer, context=[hello]).push(world) == " world"
