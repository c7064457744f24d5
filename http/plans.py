"""What chat and completions share on the way from a checked request to jobs, and in the shapes of their answers.

Knows the model's card and tokenizer; no sockets.
"""

import secrets
import time
from hashlib import blake2b
from typing import Any

import orjson

from tokenyard.broker.wire import Card
from tokenyard.http.choice import Choice
from tokenyard.http.detokenize import Detokenizer
from tokenyard.http.generation import Plan
from tokenyard.http.pool import JobRequest
from tokenyard.http.prompt import Prompts
from tokenyard.http.sampling import resolve, seeds
from tokenyard.http.schemas import Request
from tokenyard.http.stops import StopScanner


def make_plans(
    request: Request, prompts: Prompts, prompt_ids: list[list[int]], silent_max_tokens: int | None
) -> list[Plan]:
    """One plan for each of `n` choices of each prompt, in the order of OpenAI's choice indices."""
    card = prompts.card
    plans = []
    for number, ids in enumerate(prompt_ids):
        params, stop = resolve(request, card, len(ids), silent_max_tokens)
        # A completion goes on from its prompt's text; an answer in a chat begins anew.
        context = [] if silent_max_tokens is None else ids[-CONTEXT_TOKENS:]
        for index, seed in enumerate(seeds(request.sampling.get("seed"), request.n)):
            choice = Choice(
                number * request.n + index,
                Detokenizer(prompts.backend, request.skip_special_tokens, context),
                prompts.vocabulary,
                StopScanner(stop, request.include_stop_str_in_output),
                show_stop_token=request.include_stop_str_in_output,
                num_logprobs=request.num_logprobs,
            )
            job = JobRequest(
                card.names[0], ids, params._replace(seed=seed), priority=request.priority, salt=request.cache_salt
            )
            plans.append(Plan(choice, job, counts_prompt=index == 0))
    return plans


CONTEXT_TOKENS = 8
"""Prompt tokens that a completion's first characters are decoded after: more than any character has bytes."""


class Head:
    """The fields that begin every chunk and body of one answer."""

    def __init__(self, kind: str, prefix: str, request: Request, card: Card) -> None:
        self.fields: dict[str, Any] = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": fingerprint(card),
        }

    def template(self, choice: dict[str, Any], text: str, ending: dict[str, Any]) -> tuple[bytes, bytes]:
        """A chunk's bytes before and after the JSON string that stands where `text` does in `choice`."""
        data = orjson.dumps({**self.fields, "choices": [choice], **ending})
        before, after = data.split(orjson.dumps(text))
        return b"data: " + before, after + b"\n\n"


def fingerprint(card: Card) -> str:
    """OpenAI's system_fingerprint: the same seed gives the same answer as long as this stays the same."""
    digest = blake2b(f"{card.commit} {card.dtype} {card.lane} {card.device}".encode(), digest_size=5)
    return f"fp_{digest.hexdigest()}"
