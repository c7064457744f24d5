"""From what a request says and what its model's generation_config says to the sampler's Params.

A request's own field wins over its generation_config, that over the model's, that over OpenAI's defaults. Knows
neither HTTP nor tokenizers.
"""

import secrets
from hashlib import blake2b
from typing import Any, NamedTuple

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import MAX_RUNS, Params, Processors
from tokenyard.broker.wire import Card
from tokenyard.http.errors import invalid
from tokenyard.http.generation_config import named_ids, own_config
from tokenyard.http.schemas import Request

SHAPING: dict[str, float | None] = {
    "temperature": None, "top_p": None, "top_k": None, "min_p": None,
    "top_h": None, "typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0,
}  # fmt: skip
"""Who names one of these wants to sample, unless at the value that asks for nothing."""

GREEDY_BELOW = 1e-5
"""Temperatures below this are greedy: dividing by them leaves no other token a chance, or overflows (as in vLLM)."""


class Resolved(NamedTuple):
    params: Params
    """With seed 0: every choice has its own."""
    stop: list[str]


def resolve(request: Request, card: Card, num_prompt_tokens: int, bad_words: list[list[int]]) -> Resolved:
    """Merge request, generation_config and card for a prompt of this length; `bad_words` are the request's, as tokens.

    Raises TokenyardError naming the field that does not fit the model.
    """
    asked = request.sampling
    overlay: dict[str, Any] = asked.get("generation_config", {})
    for key, value in overlay.items():
        _in_vocabulary(named_ids(key, value), card, f"generation_config.{key}")
    config = own_config(card) | overlay
    values = config | asked
    wants_to_sample = asked if "do_sample" in overlay else asked | overlay
    if config.get("do_sample") is False and all(wants_to_sample.get(name, off) == off for name, off in SHAPING.items()):
        values["temperature"] = 0.0

    max_tokens = _max_tokens(request, card, num_prompt_tokens, config, overlay)
    temperature = float(values.get("temperature", 1.0))
    params = Params(
        max_tokens=max_tokens,
        min_tokens=_min_tokens(asked, config, num_prompt_tokens, max_tokens),
        temperature=temperature if temperature >= GREEDY_BELOW else 0.0,
        # vLLM's -1 and transformers' 0 both mean off; more than the vocabulary is all of it.
        top_k=max(0, min(values.get("top_k", 0), card.vocab_size)),
        top_p=float(values.get("top_p", 1.0)),
        min_p=float(values.get("min_p", 0.0)),
        repetition_penalty=float(values.get("repetition_penalty", 1.0)),
        presence_penalty=asked.get("presence_penalty", 0.0),
        frequency_penalty=asked.get("frequency_penalty", 0.0),
        logit_bias=_in_vocabulary(asked.get("logit_bias", {}), card, "logit_bias"),
        stop_token_ids=_stop_ids(asked, overlay, card),
        logprobs=request.num_logprobs,
        grammar=request.grammar,
        processors=_processors(values, bad_words, card),
    )
    stop = config.get("stop_strings", [])
    return Resolved(params, request.stop or ([stop] if isinstance(stop, str) else stop))


def seeds(asked: int | None, count: int) -> list[int]:
    """One u64 a choice: different among choices, the same again for the same `asked`; the first is `asked` itself."""
    first = secrets.randbits(64) if asked is None else asked & (2**64 - 1)
    root = first.to_bytes(8, "little")
    rest = (blake2b(root + index.to_bytes(4, "little"), digest_size=8).digest() for index in range(1, count))
    return [first, *(int.from_bytes(digest, "little") for digest in rest)]


def _min_tokens(asked: dict[str, Any], config: dict[str, Any], num_prompt_tokens: int, max_tokens: int) -> int:
    if "min_tokens" in asked:
        min_tokens: int = asked["min_tokens"]
        if min_tokens > max_tokens:
            invalid("min_tokens", f"must be at most the answer's limit of {max_tokens} tokens, not {min_tokens}")
        return min_tokens
    least: int = max(config.get("min_new_tokens", 0), config.get("min_length", 0) - num_prompt_tokens)
    return min(least, max_tokens)


def _processors(values: dict[str, Any], bad_words: list[list[int]], card: Card) -> Processors | None:
    """What few ask for; None where nobody does."""
    start, factor = values.get("exponential_decay_length_penalty", (0, 1.0))
    processors = Processors(
        sequence_bias=values.get("sequence_bias", []),
        # more than the context never comes twice
        no_repeat_ngram_size=min(values.get("no_repeat_ngram_size", 0), card.context_length + 1),
        bad_words=values.get("bad_words_ids", []) + bad_words,
        allowed_token_ids=_in_vocabulary(values.get("allowed_token_ids", []), card, "allowed_token_ids"),
        forced_eos_token_ids=values.get("forced_eos_token_id", []),
        decay_start=start if factor != 1 else 0,
        decay_factor=factor,
        remove_invalid_values=values.get("remove_invalid_values", False),
        suppress_tokens=values.get("suppress_tokens", []),
        begin_suppress_tokens=values.get("begin_suppress_tokens", []),
        top_h=values.get("top_h", 0.0),
        typical_p=values.get("typical_p", 1.0),
        epsilon_cutoff=values.get("epsilon_cutoff", 0.0),
        eta_cutoff=values.get("eta_cutoff", 0.0),
    )
    if processors == Processors():
        return None
    if len(processors.bad_words) > MAX_RUNS:
        invalid("bad_words", f"and bad_words_ids are more than {MAX_RUNS} together")
    forced = set(processors.forced_eos_token_ids)
    if forced and forced <= set(processors.suppress_tokens):
        invalid("generation_config.forced_eos_token_id", "names only what suppress_tokens suppresses")
    return processors


def _max_tokens(
    request: Request, card: Card, num_prompt_tokens: int, config: dict[str, Any], overlay: dict[str, Any]
) -> int:
    room = _room(card, num_prompt_tokens, request.CONTENT, least=0 if request.max_tokens == 0 else 1)
    if request.max_tokens is not None:
        if request.max_tokens > room and not request.CLIPS_MAX_TOKENS:
            raise TokenyardError(
                "context_length_exceeded",
                f"{request.max_tokens_param} is {request.max_tokens}, but after {num_prompt_tokens} prompt tokens "
                f"only {room} of {usable_tokens(card)} are left",
                request.max_tokens_param,
            )
        return min(request.max_tokens, room)
    if "max_length" in overlay and "max_new_tokens" not in overlay:
        # A total. Only a request's own counts: files of old models carry transformers' former default of 20.
        total = int(overlay["max_length"])
        if total <= num_prompt_tokens:
            param = "generation_config.max_length"
            invalid(param, f"is {total}, but the prompt alone has {num_prompt_tokens} tokens")
        return min(total - num_prompt_tokens, room)
    for limit in (config.get("max_new_tokens"), request.SILENT_MAX_TOKENS):
        if limit is not None:
            return min(int(limit), room)
    return room


def usable_tokens(card: Card) -> int:
    """Tokens that prompt and answer may have together: the model's context, or the worker's whole KV pool if less."""
    return min(card.context_length, card.pool_tokens) if card.pool_tokens > 0 else card.context_length


def _room(card: Card, num_prompt_tokens: int, param: str, least: int) -> int:
    """Tokens left for the answer, at least so many. Raises TokenyardError naming `param`."""
    room = usable_tokens(card) - num_prompt_tokens
    if room < least:
        raise too_long(card, str(num_prompt_tokens), param)
    return room


def too_long(card: Card, num_prompt_tokens: str, param: str) -> TokenyardError:
    """Why a prompt of so many tokens, in words, cannot run."""
    usable = usable_tokens(card)
    what = "context" if usable == card.context_length else "KV pool"
    # Claude Code compacts a conversation when it reads these very words and numbers.
    words = f"{param}: prompt is too long: {num_prompt_tokens} tokens > {usable - 1} maximum"
    words += f", since the model's {what} of {usable} holds the answer too"
    return TokenyardError("context_length_exceeded", words, param)


def _stop_ids(asked: dict[str, Any], overlay: dict[str, Any], card: Card) -> list[int]:
    own = _in_vocabulary(asked.get("stop_token_ids", []), card, "stop_token_ids")
    if asked.get("ignore_eos"):
        return sorted(set(own))
    eos = _in_vocabulary(overlay.get("eos_token_id", card.eos_token_ids), card, "generation_config.eos_token_id")
    return sorted({*own, *eos})


def _in_vocabulary(ids: Any, card: Card, param: str) -> Any:
    """`ids` as they are, once each is known to be the model's."""
    for token_id in ids:
        if token_id >= card.vocab_size:
            invalid(param, f"names token {token_id}, but the vocabulary ends at {card.vocab_size - 1}")
    return ids
