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


class Limits(NamedTuple):
    """Params less its seed, and the stop strings that come with them."""

    params: Params
    stop: list[str]


def resolve(request: Request, card: Card, num_prompt_tokens: int, silent_max_tokens: int | None) -> Limits:
    """Merge request, generation_config and card for a prompt of this length.

    `silent_max_tokens` is the limit where nobody names one; None: to the end of the context.
    Raises TokenyardError naming the field that does not fit the model.
    """
    asked = request.sampling
    overlay = _read_config(asked.get("generation_config", {}))
    config = {key: value for key, value in card.generation_config.items() if value is not None} | overlay
    sampling = {name: config[name] for name in ("temperature", "top_p", "top_k", "min_p") if name in config}
    explicit = {name for name in ("temperature", "top_p", "top_k", "min_p") if name in asked or name in overlay}
    if config.get("do_sample") is False and not explicit:
        sampling["temperature"] = 0.0
    elif config.get("do_sample") is False and "do_sample" not in overlay:
        # The model's greedy default is overruled; its neighbours in the file (top_k, say) were never meant to be used.
        sampling = {name: overlay[name] for name in sampling if name in overlay}
    sampling |= {name: asked[name] for name in ("temperature", "top_p", "top_k", "min_p") if name in asked}

    max_tokens = _max_tokens(request, card, num_prompt_tokens, config, silent_max_tokens)
    min_tokens = min(asked.get("min_tokens", config.get("min_new_tokens", 0)), max_tokens)
    if asked.get("min_tokens", 0) > max_tokens:
        invalid("min_tokens", f"must be at most max_tokens ({max_tokens}), not {asked['min_tokens']}")
    params = Params(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=float(sampling.get("temperature", 1.0)),
        top_k=max(0, min(int(sampling.get("top_k", 0)), card.vocab_size)),
        top_p=float(sampling.get("top_p", 1.0)),
        min_p=float(sampling.get("min_p", 0.0)),
        repetition_penalty=float(asked.get("repetition_penalty", config.get("repetition_penalty", 1.0))),
        presence_penalty=asked.get("presence_penalty", 0.0),
        frequency_penalty=asked.get("frequency_penalty", 0.0),
        logit_bias=_in_vocabulary(asked.get("logit_bias", {}), card, "logit_bias"),
        stop_token_ids=_stop_ids(asked, overlay, card),
        logprobs=request.num_logprobs,
    )
    stop = request.stop or list(config.get("stop_strings") or ())
    return Limits(params, [stop] if isinstance(stop, str) else stop)


def seeds(asked: int | None, count: int) -> list[int]:
    """One u64 a choice: different among choices, the same again for the same `asked`; the first is `asked` itself."""
    first = secrets.randbits(64) if asked is None else asked & (2**64 - 1)
    root = first.to_bytes(8, "little")
    rest = (blake2b(root + index.to_bytes(4, "little"), digest_size=8).digest() for index in range(1, count))
    return [first, *(int.from_bytes(digest, "little") for digest in rest)]


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
        if one is None or key in CONFIG_HARMLESS or one in CONFIG_NEUTRAL.get(key, ()):
            continue
        if key not in CONFIG_FIELDS:
            invalid(name, "is not supported here")
        config[key] = CONFIG_FIELDS[key](one, name)
    return config


def _max_tokens(
    request: Request, card: Card, num_prompt_tokens: int, config: dict[str, Any], silent: int | None
) -> int:
    room = check_prompt_length(card, num_prompt_tokens, "messages" if silent is None else "prompt")
    if request.max_tokens is not None:
        if request.max_tokens > room:
            raise TokenyardError(
                "context_length_exceeded",
                f"{request.max_tokens_param} is {request.max_tokens}, but after {num_prompt_tokens} prompt tokens "
                f"only {room} of the model's {usable_context(card)} are left",
                request.max_tokens_param,
            )
        return request.max_tokens
    if (limit := config.get("max_new_tokens")) is not None:
        return min(int(limit), room)
    if (total := config.get("max_length")) is not None and int(total) > num_prompt_tokens:
        return min(int(total) - num_prompt_tokens, room)
    return room if silent is None else min(silent, room)


def usable_context(card: Card) -> int:
    """Tokens that prompt and answer may have together: the model's context, or the worker's whole KV pool."""
    return min(card.context_length, card.pool_tokens) if card.pool_tokens > 0 else card.context_length


def check_prompt_length(card: Card, num_prompt_tokens: int, param: str) -> int:
    """Room left for the answer, at least one token. Raises TokenyardError naming `param`."""
    room = usable_context(card) - num_prompt_tokens
    if room < 1:
        what = "context" if card.context_length <= usable_context(card) else "KV pool"
        raise TokenyardError(
            "context_length_exceeded",
            f"{param} has {num_prompt_tokens} tokens, but the model's {what} holds {usable_context(card)}, "
            f"the answer included",
            param,
        )
    return room


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
