"""What single tokens look like, for logprobs: text and the true bytes, also of half a character. Knows no streams."""

import re
from functools import lru_cache

from tokenizers import Tokenizer

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: printable Latin-1 stands for itself, the rest for 256 and up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = _byte_level_alphabet()


class Vocabulary:
    """One tokenizer's tokens, by id. Ids without a token (padding of the embedding) are empty."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # 4,096 entries: a stream's 20 alternatives repeat; some 1 MB at the most.
        self.token = lru_cache(maxsize=4096)(self._token)

    def as_ids(self) -> "Vocabulary":
        """The same, but where a token's text would stand, there is its id, as vLLM's `token_id:17`."""
        return _Ids(self._tokenizer)

    def _token(self, token_id: int) -> tuple[str, bytes]:
        """Text (U+FFFD for cut characters) and bytes."""
        raw: str | None = self._tokenizer.id_to_token(token_id)
        if raw is None:
            return "", b""
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        if raw.startswith("▁") and not text.startswith(" "):
            # Decoding drops the first word's space.
            text = " " + text
        if "\ufffd" not in text:
            return text, text.encode()
        if fallback := _BYTE_FALLBACK.fullmatch(raw):
            return text, bytes([int(fallback[1], 16)])
        if all(char in _BYTES for char in raw):
            return text, bytes(_BYTES[char] for char in raw)
        return text, text.encode()


class _Ids(Vocabulary):
    def _token(self, token_id: int) -> tuple[str, bytes]:
        return f"token_id:{token_id}", super()._token(token_id)[1]
