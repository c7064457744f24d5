"""Single tokens: text and true bytes, also of half a character."""

from models import demo_tokenizer
from tokenizers import Tokenizer, decoders, models

from tokenyard.http.vocabulary import Vocabulary


def test_bytes_of_a_texts_tokens_join_to_the_texts_bytes() -> None:
    text = "Grüße, 🤖 and\n\ttabs"
    loaded = demo_tokenizer()
    tokens = [loaded.vocabulary.token(token_id) for token_id in loaded.backend.encode(text).ids]
    assert b"".join(data for _, data in tokens) == text.encode()
    assert any(shown == "\ufffd" for shown, _ in tokens)


def test_special_tokens_are_shown() -> None:
    assert demo_tokenizer().vocabulary.token(2039) == ("<|im_end|>", b"<|im_end|>")


def test_ids_without_a_token_are_empty() -> None:
    assert demo_tokenizer().vocabulary.token(1_000_000) == ("", b"")


def test_sentencepiece_tokens_keep_their_space_and_byte() -> None:
    vocab = {"<unk>": 0, "▁hello": 1, "<0xE4>": 2, "lo": 3}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary.token(1) == (" hello", b" hello")
    assert vocabulary.token(2) == ("\ufffd", b"\xe4")
    assert vocabulary.token(3) == ("lo", b"lo")
