"""Token ids to text as they come, so that the pieces joined are what decoding all ids at once gives.

Knows the `tokenizers` library and nothing of requests.
"""

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Detokenizer:
    """One stream's decoder: text comes out once its bytes are whole, so a character cut by a token's border waits.

    Bytes that are no text (a model gone astray) never raise; they come out as U+FFFD.

    `context` are prompt ids that the text continues: they decide, say, whether a word's leading space is kept.
    `hidden` ids have no text, special or not.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        skip_special: bool = True,
        context: list[int] | None = None,
        hidden: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._hidden = hidden
        self._ids = [token_id for token_id in context or () if token_id not in hidden]
        self._stream = DecodeStream(ids=self._ids, skip_special_tokens=skip_special)
        self._shown = len(self._decode()) if self._ids else 0
        """Characters of the whole decoding that are context or have come out."""
        self._pending = False
        """Whether tokens have come whose text has not."""

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is not whole."""
        if token_id in self._hidden:
            return ""
        self._ids.append(token_id)
        try:
            text: str | None = self._stream.step(self._tokenizer, token_id)
        except Exception as error:  # The library's own type.
            if not str(error).startswith("Invalid prefix"):
                raise
            return self._restart()
        self._pending = text is None
        if text is None:
            return ""
        self._shown += len(text)
        return text

    def flush(self) -> str:
        """The end: what is still held back, incomplete bytes as U+FFFD."""
        if not self._pending:
            return ""
        self._pending = False
        return self._decode()[self._shown :]

    def _restart(self) -> str:
        """Broken bytes changed text that was out already, as byte-fallback decoders do: go on after it."""
        whole = self._decode()
        text, self._shown = whole[self._shown :], max(len(whole), self._shown)
        self._stream = DecodeStream(ids=self._ids[-1:], skip_special_tokens=self._skip_special)
        self._pending = False
        return text

    def _decode(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=self._skip_special)
        return text
