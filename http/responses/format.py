"""Shapes one response: pieces of the answer in, events and the response object out. Knows the model's vocabulary."""

import secrets
import time
from typing import Any

from tokenyard.broker.errors import KINDS, TokenyardError
from tokenyard.broker.params import Params
from tokenyard.http.chat import read_piece
from tokenyard.http.choice import Choice, Piece, TokenLogprob
from tokenyard.http.generation import Generation
from tokenyard.http.plans import UNLIKELY, vocabulary_of
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import typed_event
from tokenyard.http.responses.ids import new_id
from tokenyard.http.responses.request import ResponsesRequest
from tokenyard.http.responses.sequencer import Event, Sequencer
from tokenyard.http.responses.store import Record
from tokenyard.http.turns import CallArguments, PlainText, Text, Thought, TurnParser
from tokenyard.http.vocabulary import Vocabulary

PADDING_STEP = 16
"""Padding brings an event's text to the next multiple: deltas are mostly shorter, so most events look alike."""


def new_response(request: ResponsesRequest, params: Params, stored: bool) -> dict[str, Any]:
    """The response object before anything of it is made. Sampling is shown as it is done, asked for or not."""
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "queued" if request.background else "in_progress",
        "background": request.background,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": request.previous_response_id,
        "conversation": {"id": request.conversation} if request.conversation else None,
        "prompt_cache_key": None,
        "reasoning": {"effort": request.reasoning_effort, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": stored,
        "temperature": params.temperature,
        "text": {"format": _shown_format(request.text_format), "verbosity": "medium"},
        "top_logprobs": 0,
        "top_p": params.top_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "truncation": "auto" if request.truncate else "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
        **request.shown,
    }


def early_failure(request: ResponsesRequest, error: TokenyardError) -> bytes:
    """The events of a stream whose response could not be begun: it is shown with the sampling that was asked for."""
    shown = {name: value for name, value in request.sampling.items() if name in Params._fields}
    response = new_response(request, Params(max_tokens=1)._replace(**shown), stored=False)
    events = Sequencer(response, {}).fail(_error_code(error), error.words)
    return b"".join(map(typed_event, events))


def _shown_format(form: dict[str, Any]) -> dict[str, Any]:
    if form["type"] != "json_schema":
        return form
    return {"type": "json_schema", "description": None, "strict": False, **form}


class ResponsesFormat:
    """One answer's shapes, and the news of it for the store."""

    def __init__(
        self,
        request: ResponsesRequest,
        prompter: Prompter,
        generation: Generation,
        parsers: list[TurnParser],
        response: dict[str, Any],
        record: Record | None = None,
    ) -> None:
        self._request = request
        self._generation = generation
        self._vocabulary = vocabulary_of(request, prompter.loaded)
        self._parser = parsers[0] if parsers else PlainText()
        self._record = record
        self.sequencer = Sequencer(response, request.toolbox.offers, request.sealed, request.listed)
        self._waiting: list[dict[str, Any]] = []
        """Logprobs of tokens that no part has claimed yet: the parser holds them back, or they are marks."""
        self._reason = ""

    # Events, for streams and for what runs in the background.

    def begin(self) -> list[Event]:
        return self.sequencer.begin()

    def take(self, piece: Piece) -> list[Event]:
        """What one piece says; the last one leaves the response open until `end`."""
        events = self.sequencer.begin()
        parts = read_piece(self._parser, self._generation.choices[0], piece)
        if piece.finish_reason is not None:
            self._reason = piece.finish_reason
        if piece.logprobs:
            self._waiting += [describe(entry, self._vocabulary) for entry in piece.logprobs]
        cut = piece.finish_reason == "length"
        for part in parts:
            logprobs: list[dict[str, Any]] = []
            if self._waiting and isinstance(part, Text | Thought | CallArguments):
                logprobs, self._waiting = claim(self._waiting, part.text)
            events += self.sequencer.push(part, logprobs, cut)
        return events

    def end(self) -> list[Event]:
        """The generation has finished."""
        if self._reason == "length":
            events = self.sequencer.end("incomplete", self.usage, time.time(), "max_output_tokens")
        else:
            events = self.sequencer.end("completed", self.usage, time.time())
        self._keep()
        return events

    def fail(self, error: TokenyardError) -> list[Event]:
        """The generation has failed, or the server is going down."""
        events = self.sequencer.fail(_error_code(error), error.words)
        self._keep()
        return events

    def leave(self) -> list[Event]:
        """Nobody wants the rest: the response ends as it is, cancelled."""
        events = self.sequencer.begin() + self.sequencer.end("cancelled", self.usage, time.time())
        self._keep()
        return events

    def _keep(self) -> None:
        if self._record is not None:
            self._record.end(self.sequencer.response)

    @property
    def usage(self) -> dict[str, Any]:
        """Responses' usage object, as of now."""
        usage = self._generation.usage
        details = usage.get("completion_tokens_details", {})
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": details.get("reasoning_tokens", 0)},
            "total_tokens": usage["total_tokens"],
        }

    # As replies.Format.

    def opening(self, choice: Choice) -> bytes:
        return self.encode(self.begin())

    def chunk(self, choice: Choice, piece: Piece) -> bytes:
        return self.encode(self.take(piece))

    def closing(self) -> bytes:
        return self.encode(self.end())

    def failure(self, error: TokenyardError) -> bytes:
        return self.encode(self.fail(error))

    def whole(self, pieces: list[list[Piece]]) -> dict[str, Any]:
        for piece in pieces[0]:
            self.take(piece)
        self.end()
        return self.sequencer.response

    def encode(self, events: list[Event]) -> bytes:
        """Named server-sent events; deltas padded where the client asked for it."""
        if self._request.obfuscate:
            events = [_padded(event) for event in events]
        return b"".join(map(typed_event, events))


def _padded(event: Event) -> Event:
    """A delta with random characters, so that an eavesdropper cannot read its length."""
    if "delta" not in event:
        return event
    missing = -len(event["delta"]) % PADDING_STEP
    return {**event, "obfuscation": secrets.token_hex(PADDING_STEP)[:missing]}


def describe(entry: TokenLogprob, vocabulary: Vocabulary) -> dict[str, Any]:
    """One token's logprob in Responses' shape."""

    def one(token_id: int, logprob: float) -> dict[str, Any]:
        text, data = vocabulary.token(token_id)
        return {"token": text, "bytes": list(data), "logprob": max(logprob, UNLIKELY)}

    return {**one(entry.token_id, entry.logprob), "top_logprobs": [one(*other) for other in entry.top]}


def claim(waiting: list[dict[str, Any]], text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The tokens that a text is made of, and those after them. What comes before was a mark: nobody's."""
    data = text.encode()
    start = b"".join(bytes(entry["bytes"]) for entry in waiting).find(data)
    if start < 0:  # what is no UTF-8 was replaced in the text
        return waiting, []
    claimed, rest, offset = [], [], 0
    for entry in waiting:
        after = offset + len(entry["bytes"])
        if offset >= start + len(data):
            rest.append(entry)
        elif after > start:
            claimed.append(entry)
        offset = after
    return claimed, rest


def _error_code(error: TokenyardError) -> str:
    """One of the few codes that a failed response may carry."""
    if KINDS[error.code].status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if KINDS[error.code].status == 400 else "server_error"
