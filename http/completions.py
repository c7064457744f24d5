"""POST /v1/completions: from a checked request to plans, and from pieces to OpenAI's chunks and body."""

import secrets
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.bodies import read_body
from tokenyard.http.choice import Choice, Piece, TokenLogprob
from tokenyard.http.generation import Generation, Plan
from tokenyard.http.plans import UNLIKELY, Head, make_plans
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import DONE, event, openai_failure
from tokenyard.http.schemas import CompletionRequest, parse_completion
from tokenyard.http.service import Service
from tokenyard.http.vocabulary import Vocabulary


def add_routes(api: FastAPI, service: Service) -> None:
    @api.post("/v1/completions")
    async def completions(http: Request) -> Response:
        request = await read_body(http, parse_completion)
        prompter = await service.prompter(request.model)
        generation = Generation(service.pool, await plan_completion(request, prompter))
        return service.reply(generation, CompletionFormat(request, prompter, generation), request.stream)


async def plan_completion(request: CompletionRequest, prompter: Prompter) -> list[Plan]:
    """Tokenize; n plans a prompt. Raises TokenyardError naming the field that does not fit."""
    return make_plans(request, prompter, await prompter.of_completion(request))


class CompletionFormat:
    """Shapes one answer."""

    def __init__(self, request: CompletionRequest, prompter: Prompter, generation: Generation) -> None:
        self._request = request
        self._generation = generation
        self._vocabulary = prompter.loaded.vocabulary
        self._options = request.stream_options
        self._head = Head("text_completion", "cmpl", request, prompter.card)
        self._ending: dict[str, Any] = {"usage": None} if self._options.include_usage else {}
        self._plain = (
            request.num_logprobs < 0 and not request.return_token_ids and not self._options.continuous_usage_stats
        )
        """Whether a piece in mid-stream is its text and nothing else, as nearly always."""
        self._templates = [self._template(choice.index) for choice in generation.choices] if self._plain else []

    def _template(self, index: int) -> tuple[bytes, bytes]:
        mark = secrets.token_hex(8)
        choice = {"index": index, "text": mark, "logprobs": None, "finish_reason": None}
        return self._head.template(choice, mark, self._ending)

    def opening(self, choice: Choice) -> bytes:
        return b""

    def chunk(self, choice: Choice, piece: Piece) -> bytes:
        if piece.finish_reason is None:
            if not piece.text and (self._plain or not piece.token_ids):
                return b""
            if self._plain:
                before, after = self._templates[choice.index]
                return before + orjson.dumps(piece.text) + after
        ending = {"usage": self._generation.usage} if self._options.continuous_usage_stats else self._ending
        return event({**self._head.fields, "choices": [self._choice(choice, [piece])], **ending})

    def closing(self) -> bytes:
        if not self._options.include_usage:
            return DONE
        return event({**self._head.fields, "choices": [], "usage": self._generation.usage}) + DONE

    def failure(self, error: TokenyardError) -> bytes:
        return openai_failure(error)

    def whole(self, pieces: list[list[Piece]]) -> dict[str, Any]:
        choices = [self._choice(choice, pieces[choice.index]) for choice in self._generation.choices]
        return {**self._head.fields, "choices": choices, "usage": self._generation.usage}

    def _choice(self, choice: Choice, pieces: list[Piece]) -> dict[str, Any]:
        entries = [entry for piece in pieces for entry in piece.logprobs]
        shaped = {
            "index": choice.index,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": _logprobs(entries, self._vocabulary) if self._request.num_logprobs >= 0 else None,
            "finish_reason": pieces[-1].finish_reason,
        }
        if self._request.return_token_ids:
            shaped["token_ids"] = [token_id for piece in pieces for token_id in piece.token_ids]
        return shaped


def _logprobs(entries: list[TokenLogprob], vocabulary: Vocabulary) -> dict[str, Any]:
    """OpenAI's older shape: parallel lists. Tokens whose text is the same share one key of top_logprobs."""
    return {
        "tokens": [vocabulary.token(entry.token_id)[0] for entry in entries],
        "token_logprobs": [max(entry.logprob, UNLIKELY) for entry in entries],
        "top_logprobs": [
            {vocabulary.token(token_id)[0]: max(logprob, UNLIKELY) for token_id, logprob in reversed(entry.top)}
            for entry in entries
        ],
        "text_offset": [entry.offset for entry in entries],
    }
