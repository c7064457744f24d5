"""From pieces to TGI's answers: a generated text, and a token at a time in a stream."""

from collections.abc import Iterable
from typing import Any

from tokenyard.broker.errors import KINDS, TokenyardError
from tokenyard.http.choice import Choice, Piece, TokenLogprob
from tokenyard.http.echoes import Echo
from tokenyard.http.errors import Failure, HttpError
from tokenyard.http.generation import Generation
from tokenyard.http.library import LoadedTokenizer
from tokenyard.http.plans import UNLIKELY
from tokenyard.http.replies import event
from tokenyard.http.tgi.fields import TgiRequest

ERROR_TYPES = {400: "validation", 404: "validation", 413: "validation", 429: "overloaded", 503: "overloaded"}
"""TGI's, by HTTP status; all else is `generation`."""


def error_body(error: Failure) -> dict[str, Any]:
    """TGI's error body."""
    status = error.status if isinstance(error, HttpError) else KINDS[error.code].status
    return {"error": error.words, "error_type": ERROR_TYPES.get(status, "generation")}


def failure(error: TokenyardError) -> bytes:
    """How a stream ends in a failure."""
    return event(error_body(error))


class TgiFormat:
    """Shapes one answer."""

    def __init__(
        self,
        request: TgiRequest,
        generation: Generation,
        loaded: LoadedTokenizer,
        echoes: list[Echo],
        in_list: bool,
    ) -> None:
        """`in_list`: the body is a list of one, as at Hugging Face's own service."""
        self._request = request
        self._generation = generation
        self._vocabulary = loaded.vocabulary
        self._special = loaded.special_ids
        self._echo = echoes[0].text if echoes else ""
        self._in_list = in_list
        self._index = 0
        """Tokens streamed so far."""
        self._text = ""
        """Streamed so far."""
        self._unsent = ""
        """Its end that no event has said: it waits for a token."""

    def opening(self, choice: Choice) -> bytes:
        return b""

    def chunk(self, choice: Choice, piece: Piece) -> bytes:
        """An event for each token. A piece's text is all on its last one, since a character may be cut between two."""
        self._text += piece.text
        self._unsent += piece.text
        tokens = [self._token(entry.token_id, entry.logprob) | {"text": ""} for entry in piece.logprobs]
        tops = [self._top(entry) for entry in piece.logprobs]
        if piece.finish_reason is not None and not tokens:
            tokens.append(self._ending(choice, piece) | {"text": ""})
            tops.append([])
        if not tokens:
            return b""
        tokens[-1]["text"], self._unsent = self._unsent, ""
        events = [self._event(token, top) for token, top in zip(tokens, tops, strict=True)]
        if piece.finish_reason is not None:
            details = {**self._details(choice, piece.finish_reason), "input_length": self._num_prompt}
            events[-1] |= {"generated_text": self._echo + self._text, "details": details}
        return b"".join(map(event, events))

    def _event(self, token: dict[str, Any], top: list[dict[str, Any]]) -> dict[str, Any]:
        self._index += 1
        told: dict[str, Any] = {"index": self._index, "token": token, "generated_text": None, "details": None}
        return {**told, "top_tokens": top} if self._request.num_logprobs > 0 else told

    def _ending(self, choice: Choice, piece: Piece) -> dict[str, Any]:
        (plan,) = self._generation.plans
        ends = [*piece.token_ids[-1:], *plan.job.params.stop_token_ids, 0]
        return self._token(ends[0], choice.last_logprob)

    @property
    def _num_prompt(self) -> int:
        (plan,) = self._generation.plans
        return len(plan.job.prompt_ids)

    def closing(self) -> bytes:
        return b""

    def failure(self, error: TokenyardError) -> bytes:
        return failure(error)

    def whole(self, pieces: list[list[Piece]]) -> Any:
        (choice,) = self._generation.choices
        (own,) = pieces
        body: dict[str, Any] = {"generated_text": self._echo + "".join(piece.text for piece in own)}
        if self._request.details or self._request.decoder_input_details:
            entries = [entry for piece in own for entry in piece.logprobs]
            body["details"] = {
                **self._details(choice, own[-1].finish_reason),
                "prefill": self._prefill(choice),
                "tokens": [self._token(entry.token_id, entry.logprob) for entry in entries],
            }
            if self._request.num_logprobs > 0:
                body["details"]["top_tokens"] = [self._top(entry) for entry in entries]
        return [body] if self._in_list else body

    def _details(self, choice: Choice, reason: str | None) -> dict[str, Any]:
        ending = "length" if reason == "length" else "stop_sequence" if choice.matched_stop else "eos_token"
        (plan,) = self._generation.plans
        sampled = plan.job.params.temperature > 0
        seed = plan.job.params.seed if sampled else None
        return {"finish_reason": ending, "generated_tokens": choice.num_tokens, "seed": seed}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        text, _ = self._vocabulary.token(token_id)
        return {
            "id": token_id,
            "text": text,
            "logprob": max(logprob, UNLIKELY),
            "special": token_id in self._special,
        }

    def _top(self, entry: TokenLogprob) -> list[dict[str, Any]]:
        return [self._token(token_id, logprob) for token_id, logprob in entry.top]

    def _prefill(self, choice: Choice) -> list[dict[str, Any]]:
        if not self._request.decoder_input_details:
            return []
        (plan,) = self._generation.plans
        logprobs: Iterable[float | None] = [None, *(token.logprob for token in choice.prompt_scores.tokens)]
        return [
            {"id": token_id, "text": self._vocabulary.token(token_id)[0], "logprob": logprob}
            for token_id, logprob in zip(plan.job.prompt_ids, logprobs, strict=False)
        ]
