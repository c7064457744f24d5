"""One choice of an answer: tokens in, pieces of shown text, logprobs and the end out.

Pure state: knows neither sockets nor HTTP's shapes.
"""

from typing import Any, NamedTuple

from tokenyard.broker.wire import Finish
from tokenyard.http.detokenize import Detokenizer
from tokenyard.http.prompt_scores import PromptScores
from tokenyard.http.stops import StopScanner


class TokenLogprob(NamedTuple):
    """One shown token with its logprob and those of the likeliest instead."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]
    offset: int
    """Character of the choice's text where it begins."""


class Piece(NamedTuple):
    """What one delta adds to a choice."""

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob]
    """Of the tokens whose text is now shown; tokens held back with their text come later."""
    finish_reason: str | None
    """stop or length, in the last piece."""


class Choice:
    """Follows one job's tokens. After a piece with a finish_reason nothing may be pushed."""

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer,
        stops: StopScanner,
        *,
        show_stop_token: bool = False,
        min_tokens: int = 0,
        num_logprobs: int = -1,
        prompt_ids: list[int] | None = None,
    ) -> None:
        self.index = index
        self.num_tokens = 0
        """Tokens generated so far, a final stop token included."""
        self.num_cached = 0
        """Prompt tokens that the worker had in its cache."""
        self.num_thought: int | None = None
        """Of `num_tokens`, those of thoughts, as the parts came; None where nobody tells them apart."""
        self.finished = False
        self.prompt_scores = PromptScores(prompt_ids or [])
        """Whole before the first token comes, if they were asked for."""
        self.sum_logprobs = 0.0
        """Of all tokens generated so far, if any logprobs were asked for."""
        self.last_logprob = 0.0
        """Of the last token, be it shown or not, if any logprobs were asked for."""
        self.scores: list[float] = []
        """Of a job of kind score, at its end."""
        self.embedding = b""
        """Of a job of kind embed, at its end: packed little-endian float32."""
        self._detokenizer = detokenizer
        self._stops = stops
        self._show_stop_token = show_stop_token
        self._min_tokens = min_tokens
        """Until so many have come, stop strings are not looked for, as the worker does not stop either."""
        self._num_logprobs = num_logprobs
        self._as_is = num_logprobs < 0 and not stops.stops
        """Whether a delta in mid-stream is its text and nothing else, as nearly always."""
        self._num_chars = 0
        """Characters of text so far, held back ones included."""
        self._num_shown = 0
        self._waiting: list[tuple[int, TokenLogprob]] = []
        """Logprobs of tokens whose text is held back, each with the character where it ends."""

    @property
    def matched_stop(self) -> str | None:
        """The stop string that ended the text, once one has."""
        return self._stops.stopped

    def push(self, token_ids: list[int], extra: dict[str, Any], finish: Finish | None) -> Piece:
        """Take one delta. `finish`, if any, is stop or length."""
        assert not self.finished
        if self._as_is and not extra and finish is None:
            text = "".join(map(self._detokenizer.push, token_ids))
            self.num_tokens += len(token_ids)
            self._num_chars += len(text)
            self._num_shown += len(text)
            return Piece(text, token_ids, [], None)
        return self._push(token_ids, extra, finish)

    def _push(self, token_ids: list[int], extra: dict[str, Any], finish: Finish | None) -> Piece:
        if not self.num_tokens:
            # What a later attempt finds cached after a resume is no news to the client.
            self.num_cached = extra.get("cached_tokens", self.num_cached)
        if told := extra.get("prompt_logprobs"):
            self.prompt_scores.push(told)
        self.scores = extra.get("scores", self.scores)
        self.embedding = extra.get("embedding", self.embedding)
        for logprob, _, _ in extra.get("logprobs", ()):
            self.sum_logprobs += logprob
            self.last_logprob = logprob
        self.num_tokens += len(token_ids)
        hidden = finish is not None and finish.reason == "stop" and not self._show_stop_token
        visible = token_ids[:-1] if hidden else token_ids
        text = self._detokenize(visible, extra.get("logprobs"))
        shown = text if self.num_tokens <= self._min_tokens else self._stops.push(text)
        reason = None if self._stops.stopped is None else "stop"
        if finish is not None and reason is None:
            tail = self._detokenizer.flush()
            self._num_chars += len(tail)
            shown += self._stops.push(tail)
            if self._stops.stopped is None:
                shown += self._stops.flush()
            reason = "stop" if self._stops.stopped is not None else finish.reason
        self.finished = reason is not None
        self._num_shown += len(shown)
        return Piece(shown, token_ids, self._ready_logprobs(), reason)

    def _detokenize(self, token_ids: list[int], logprobs: list[Any] | None) -> str:
        if self._num_logprobs < 0 or logprobs is None:
            text = "".join(map(self._detokenizer.push, token_ids))
            self._num_chars += len(text)
            return text
        texts = []
        for token_id, (logprob, top_ids, top_values) in zip(token_ids, logprobs[: len(token_ids)], strict=True):
            text = self._detokenizer.push(token_id)
            top = list(zip(top_ids, top_values, strict=True))[: self._num_logprobs]
            entry = TokenLogprob(token_id, logprob, top, self._num_chars)
            self._num_chars += len(text)
            # A token without text is part of the next character, and waits for it.
            self._waiting.append((max(self._num_chars, entry.offset + 1), entry))
            texts.append(text)
        return "".join(texts)

    def _ready_logprobs(self) -> list[TokenLogprob]:
        if not self._waiting:
            return []
        if self.finished:
            cut = self._stops.stopped is not None
            ready = [entry for _, entry in self._waiting if not cut or entry.offset < self._num_shown]
            self._waiting.clear()
            return ready
        count = 0
        while count < len(self._waiting) and self._waiting[count][0] <= self._num_shown:
            count += 1
        ready = [entry for _, entry in self._waiting[:count]]
        del self._waiting[:count]
        return ready
