"""What chat and completions share on the way from a checked request to jobs, and in the shapes of their answers.

Knows the model's card and tokenizer; no sockets.
"""

import secrets
import time
from hashlib import blake2b
from typing import Any

import orjson
from tokenizers import Tokenizer

from tokenyard.broker.params import MAX_RUN_TOKENS
from tokenyard.broker.wire import Card
from tokenyard.http.adapters import adapter_of
from tokenyard.http.choice import Choice
from tokenyard.http.detokenize import Detokenizer
from tokenyard.http.errors import invalid
from tokenyard.http.generation import Plan
from tokenyard.http.library import LoadedTokenizer
from tokenyard.http.pool import JobRequest
from tokenyard.http.prompt import Prompt, Prompter
from tokenyard.http.sampling import resolve, seeds
from tokenyard.http.schemas import Request
from tokenyard.http.stops import StopScanner
from tokenyard.http.vocabulary import Vocabulary

UNLIKELY = -9999.0
"""OpenAI's stand-in for a logprob of minus infinity, which JSON cannot say."""

CONTEXT_TOKENS = 8
"""Prompt tokens after which a continued text is decoded: more than any character has bytes."""


def make_plans(
    request: Request, prompter: Prompter, prompts: list[Prompt], hidden: frozenset[int] | None = None
) -> list[Plan]:
    """One plan for each candidate for an answer to each prompt, in the order of OpenAI's choice indices.

    Where special tokens are not shown, these are all of the vocabulary's, or only the `hidden` ones if given.
    Raises TokenyardError naming the field that does not fit the model.
    """
    card, loaded = prompter.card, prompter.loaded
    skip_special = request.skip_special_tokens
    bad_words = _bad_word_ids(request.sampling.get("bad_words", []), loaded.backend)
    plans = []
    for number, prompt in enumerate(prompts):
        params, stop = resolve(request, card, len(prompt.ids), bad_words)
        context = prompt.ids[-CONTEXT_TOKENS:] if prompt.continued else []
        if prompt.end_ids and not request.sampling.get("ignore_eos"):
            params = params._replace(stop_token_ids=sorted({*params.stop_token_ids, *prompt.end_ids}))
        for index, seed in enumerate(seeds(request.sampling.get("seed"), request.num_candidates)):
            tells_prompt = index == 0 or request.stream  # a whole answer has it from the prompt's first choice
            choice = Choice(
                number * request.num_candidates + index,
                Detokenizer(
                    loaded.backend,
                    skip_special and hidden is None,
                    context,
                    hidden if skip_special and hidden is not None else frozenset(),
                ),
                StopScanner(stop, request.include_stop_str_in_output),
                show_stop_token=request.include_stop_str_in_output,
                min_tokens=params.min_tokens,
                num_logprobs=request.num_logprobs,
                prompt_ids=prompt.ids,
            )
            job = JobRequest(
                card.names[0],
                prompt.ids,
                params._replace(
                    seed=seed,
                    cache_salt=request.cache_salt,
                    logprobs=max(params.logprobs, 0 if request.num_candidates > request.n else -1),
                    prompt_logprobs=request.num_prompt_logprobs if tells_prompt else -1,
                ),
                priority=request.priority,
                kind="generate" if params.max_tokens else "score",
            )
            plans.append(Plan(choice, job, counts_prompt=index == 0))
    return plans


def vocabulary_of(request: Request, loaded: LoadedTokenizer) -> Vocabulary:
    """What tokens are called in logprobs."""
    return loaded.vocabulary.as_ids() if request.return_tokens_as_token_ids else loaded.vocabulary


def _bad_word_ids(words: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Each word's tokens at the beginning of a text and in its midst, as vLLM takes them."""
    found: list[list[int]] = []
    for index, word in enumerate(words):
        first, inner = (tokenizer.encode(space + word.lstrip(), add_special_tokens=False).ids for space in ("", " "))
        if not 0 < len(first) <= MAX_RUN_TOKENS:
            invalid(f"bad_words.{index}", f"must be 1 to {MAX_RUN_TOKENS} tokens, not {len(first)}")
        found.append(first)
        if inner[0] != first[0] and len(inner) == len(first):  # else a space and the first form follow each other
            found.append(inner)
    return found


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
    adapter = adapter_of(card)
    version = f" {adapter.version}" if adapter else ""
    digest = blake2b(f"{card.commit} {card.dtype} {card.lane} {card.device}{version}".encode(), digest_size=5)
    return f"fp_{digest.hexdigest()}"
