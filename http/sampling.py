"""From what a request says and what its model's generation_config says to the sampler's Params.

A request's own field wins over its generation_config, that over the model's, that over OpenAI's defaults. Knows
neither HTTP nor tokenizers.
"""

import secrets
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import Card
from tokenyard.http.checks import Check, boolean, integer, number, stop_strings, token_ids
from tokenyard.http.errors import invalid
from tokenyard.http.schemas import Request

_MAX = 1 << 63

CONFIG_FIELDS: dict[str, Check] = {
    "do_sample": boolean,
    "temperature": number(0, 100),
    "top_p": number(0, 1, above=True),
    "top_k": integer(0, _MAX),
    "min_p": number(0, 1),
    "repetition_penalty": number(0, 10, above=True),
    "max_new_tokens": integer(1, _MAX),
    "max_length": integer(1, _MAX),
    "min_new_tokens": integer(0, _MAX),
    "stop_strings": stop_strings,
    "eos_token_id": lambda value, param: token_ids([value] if type(value) is int else value, param),
}
"""transformers' GenerationConfig as far as the engine does it."""

CONFIG_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "num_beam_groups": (1,), "num_return_sequences": (1,), "typical_p": (1,), "length_penalty": (1,),
    "epsilon_cutoff": (0,), "eta_cutoff": (0,), "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,), "diversity_penalty": (0,), "min_length": (0,), "penalty_alpha": (0,),
    "token_healing": (False,),
}  # fmt: skip
"""Attributes that we do not do, with the values at which they do nothing (transformers' own defaults)."""

CONFIG_HARMLESS = frozenset({
    "bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "_from_model_config", "use_cache",
    "cache_implementation", "cache_config", "compile_config", "disable_compile", "return_dict_in_generate",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits",
})  # fmt: skip
"""Attributes that say how transformers should run, or what else it should return: the text stays the same."""


SHAPING = ("temperature", "top_p", "top_k", "min_p")
"""Who names one of these wants to sample."""

GREEDY_BELOW = 1e-5
"""Temperatures below this are greedy: dividing by them leaves no other token a chance, or overflows (as in vLLM)."""


class Resolved(NamedTuple):
    params: Params
    """With seed 0: every choice has its own."""
    stop: list[str]


def resolve(request: Request, card: Card, num_prompt_tokens: int) -> Resolved:
    """Merge request, generation_config and card for a prompt of this length.

    Raises TokenyardError naming the field that does not fit the model.
    """
    asked = request.sampling
    overlay = _read_config(asked.get("generation_config", {}))
    config = {key: value for key, value in card.generation_config.items() if value is not None} | overlay
    values = config | asked
    wants_to_sample = asked if "do_sample" in overlay else asked | overlay
    if config.get("do_sample") is False and not any(name in wants_to_sample for name in SHAPING):
        values["temperature"] = 0.0

    max_tokens = _max_tokens(request, card, num_prompt_tokens, config, overlay)
    min_tokens = asked.get("min_tokens", config.get("min_new_tokens", 0))
    if "min_tokens" in asked and min_tokens > max_tokens:
        invalid("min_tokens", f"must be at most the answer's limit of {max_tokens} tokens, not {min_tokens}")
    temperature = float(values.get("temperature", 1.0))
    params = Params(
        max_tokens=max_tokens,
        min_tokens=min(min_tokens, max_tokens),
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
    )
    stop = config.get("stop_strings", [])
    return Resolved(params, request.stop or ([stop] if isinstance(stop, str) else stop))


def seeds(asked: int | None, count: int) -> list[int]:
    """One u64 a choice: different among choices, the same again for the same `asked`; the first is `asked` itself."""
    first = secrets.randbits(64) if asked is None else asked & (2**64 - 1)
    root = first.to_bytes(8, "little")
    rest = (blake2b(root + index.to_bytes(4, "little"), digest_size=8).digest() for index in range(1, count))
    return [first, *(int.from_bytes(digest, "little") for digest in rest)]


def unsupported_defaults(config: dict[str, Any]) -> list[str]:
    """Names in a model's own generation_config that would change its text, and that we do not do: for one warning."""
    return [
        key
        for key, value in config.items()
        if value is not None and not _is_idle(key, value) and key not in CONFIG_FIELDS
    ]


def _is_idle(key: str, value: object) -> bool:
    return key in CONFIG_HARMLESS or value in CONFIG_NEUTRAL.get(key, ())


def _read_config(value: dict[str, Any] | str) -> dict[str, Any]:
    """A request's generation_config, checked as strictly as its own fields."""
    param = "generation_config"
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise TokenyardError("invalid_value", f"{param} is not valid JSON: {error}", param) from error
        if type(value) is not dict:
            invalid(param, "must hold a JSON object")
    assert isinstance(value, dict)
    config: dict[str, Any] = {}
    for key, one in value.items():
        name = f"{param}.{key}"
        if one is None or _is_idle(key, one):
            continue
        if key not in CONFIG_FIELDS:
            invalid(name, "is not supported here")
        config[key] = CONFIG_FIELDS[key](one, name)
    return config


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
        return max(1, min(int(overlay["max_length"]) - num_prompt_tokens, room))
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
