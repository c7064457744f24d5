"""POST /v1/completions: from a checked request to plans, and from pieces to OpenAI's chunks and body."""

import secrets
from typing import Any, NamedTuple

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.bodies import read_body
from tokenyard.http.choice import Choice, Piece, TokenLogprob
from tokenyard.http.echoes import Echo, top_logprobs, vllm_prompt_logprobs
from tokenyard.http.generation import Generation, Plan
from tokenyard.http.plans import UNLIKELY, Head, make_plans, vocabulary_of
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import DONE, event, openai_failure
from tokenyard.http.schemas import CompletionRequest, parse_completion
from tokenyard.http.service import Service
from tokenyard.http.vocabulary import Vocabulary


def add_routes(api: FastAPI, service: Service) -> None:
    @api.post("/v1/completions")
    async def completions(http: Request) -> Response:
        request = await read_body(http, parse_completion)

        async def work(prompter: Prompter) -> Response:
            plan = await plan_completion(request, prompter)
            generation = Generation(service.pool, plan.plans)
            form = CompletionFormat(request, prompter, generation, plan.echoes)
            return service.reply(generation, form, request.stream)

        return await service.answer(request.model, work, openai_failure if request.stream else None)


class CompletionPlan(NamedTuple):
    """How some prompts are gone on with."""

    plans: list[Plan]
    """One a candidate of each prompt."""
    echoes: list[Echo]
    """One a prompt; empty where answers do not begin with it."""


async def plan_completion(request: CompletionRequest, prompter: Prompter) -> CompletionPlan:
    """Tokenize. Raises TokenyardError naming the field that does not fit."""
    prompts = await prompter.of_completion(request)
    echoes = [Echo(prompt, prompter.loaded, request.skip_special_tokens) for prompt in prompts if request.echo]
    return CompletionPlan(make_plans(request, prompter, prompts), echoes)


class CompletionFormat:
    """Shapes one answer."""

    def __init__(
        self, request: CompletionRequest, prompter: Prompter, generation: Generation, echoes: list[Echo]
    ) -> None:
        self._request = request
        self._generation = generation
        self._vocabulary = vocabulary_of(request, prompter.loaded)
        self._echoes = echoes
        self._unechoed = {choice.index for choice in generation.choices} if echoes else set()
        """Choices whose prompt has not been streamed."""
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
        if choice.index in self._unechoed and (piece.token_ids or piece.finish_reason):
            self._unechoed.remove(choice.index)
            return self._chunk(self._echoed(choice)) + self.chunk(choice, piece)
        if piece.finish_reason is None:
            if not piece.text and (self._plain or not piece.token_ids):
                return b""
            if self._plain:
                before, after = self._templates[choice.index]
                return before + orjson.dumps(piece.text) + after
        return self._chunk(self._choice(choice, [piece]))

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        ending = {"usage": self._generation.usage} if self._options.continuous_usage_stats else self._ending
        return event({**self._head.fields, "choices": [choice], **ending})

    def closing(self) -> bytes:
        if not self._options.include_usage:
            return DONE
        return event({**self._head.fields, "choices": [], "usage": self._generation.usage}) + DONE

    def failure(self, error: TokenyardError) -> bytes:
        return openai_failure(error)

    def whole(self, pieces: list[list[Piece]]) -> dict[str, Any]:
        choices = [self._whole_choice(choice, pieces[choice.index]) for choice in self._best()]
        for index, choice in enumerate(choices):
            choice["index"] = index
        return {**self._head.fields, "choices": choices, "usage": self._generation.usage}

    def _best(self) -> list[Choice]:
        """Of each prompt's candidates the `n` with the highest logprob a token, if there are more, best first."""
        choices, count = self._generation.choices, self._request.num_candidates
        if count == self._request.n:
            return choices
        groups = (choices[start : start + count] for start in range(0, len(choices), count))
        return [one for group in groups for one in sorted(group, key=_mean_logprob, reverse=True)[: self._request.n]]

    def _whole_choice(self, choice: Choice, pieces: list[Piece]) -> dict[str, Any]:
        shaped = self._choice(choice, pieces)
        if self._echoes:
            echoed = self._echoed(choice)
            shaped["text"] = echoed["text"] + shaped["text"]
            if echoed["logprobs"]:
                shaped["logprobs"] = {
                    key: echoed["logprobs"][key] + shaped["logprobs"][key] for key in echoed["logprobs"]
                }
        if self._request.prompt_logprobs >= 0:
            scores = self._teller(choice).prompt_scores
            shaped["prompt_logprobs"] = vllm_prompt_logprobs(scores.tokens, self._vocabulary)
        return shaped

    def _echoed(self, choice: Choice) -> dict[str, Any]:
        """The prompt as a choice's first part."""
        echo = self._echoes[choice.index // self._request.num_candidates]
        logprobs = None
        if self._request.num_logprobs >= 0:
            logprobs = echo.logprobs(
                self._teller(choice).prompt_scores.tokens, self._request.num_logprobs, self._vocabulary
            )
        return {"index": choice.index, "text": echo.text, "logprobs": logprobs, "finish_reason": None}

    def _teller(self, choice: Choice) -> Choice:
        """The choice whose job tells the logprobs of the prompt of this one."""
        if self._request.stream:
            return choice
        return self._generation.choices[choice.index - choice.index % self._request.num_candidates]

    def _choice(self, choice: Choice, pieces: list[Piece]) -> dict[str, Any]:
        """What the model said."""
        entries = [entry for piece in pieces for entry in piece.logprobs]
        shaped: dict[str, Any] = {
            "index": choice.index,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": None,
            "finish_reason": pieces[-1].finish_reason,
        }
        if self._request.num_logprobs >= 0:
            before = len(self._echoes[choice.index // self._request.num_candidates].text) if self._echoes else 0
            shaped["logprobs"] = _logprobs(entries, before, self._vocabulary)
        if self._request.return_token_ids:
            shaped["token_ids"] = [token_id for piece in pieces for token_id in piece.token_ids]
        return shaped


def _mean_logprob(choice: Choice) -> float:
    return choice.sum_logprobs / max(1, choice.num_tokens)


def _logprobs(entries: list[TokenLogprob], num_before: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """OpenAI's older shape: parallel lists. `num_before`: characters of text before what the model said."""
    return {
        "tokens": [vocabulary.token(entry.token_id)[0] for entry in entries],
        "token_logprobs": [max(entry.logprob, UNLIKELY) for entry in entries],
        "top_logprobs": [top_logprobs(entry.top, vocabulary) for entry in entries],
        "text_offset": [num_before + entry.offset for entry in entries],
    }
