"""transformers' GenerationConfig, as requests and models' own files set it: what becomes of each of its attributes.

A test compares the three tables with the attributes of the installed class. As in fields.py, an attribute is *harmless*
when leaving it aside cannot change the answer's text. Knows no tokenizers.
"""

from typing import Any

import orjson

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Card
from tokenyard.http.checks import (
    MAX_CHOICES,
    Check,
    Schema,
    boolean,
    described,
    integer,
    length_decay,
    listed_token_ids,
    number,
    or_null,
    sequence_bias,
    stop_strings,
    token_ids,
    token_runs,
)
from tokenyard.http.errors import invalid

_MAX = 1 << 63


def _one_or_more(check: Check) -> Check:
    """A list that `check` takes, or one of its items alone."""
    schema = {"anyOf": [check.schema["items"], check.schema]}
    return Check(lambda value, param: check([value] if type(value) is int else value, param), schema)


_share = number(0, 1)


@described(_share.schema)
def _cutoff(value: Any, param: str) -> float:
    """A cutoff of 1 is off, as in transformers, and so becomes 0."""
    share: float = _share(value, param)
    return share % 1


CONFIG_FIELDS: dict[str, Check] = {
    "do_sample": boolean,
    "temperature": number(0, 100),
    "top_p": number(0, 1, above=True),
    "top_k": integer(0, _MAX),
    "min_p": number(0, 1),
    "top_h": number(0, 1, above=True),
    "typical_p": number(0, 1, above=True),
    "epsilon_cutoff": _cutoff,
    "eta_cutoff": _cutoff,
    "repetition_penalty": number(0, 10, above=True),
    "no_repeat_ngram_size": integer(0, _MAX),
    "bad_words_ids": token_runs,
    "sequence_bias": sequence_bias,
    "suppress_tokens": listed_token_ids,
    "begin_suppress_tokens": listed_token_ids,
    "exponential_decay_length_penalty": length_decay,
    "remove_invalid_values": boolean,
    "max_new_tokens": integer(1, _MAX),
    "max_length": integer(1, _MAX),
    "min_new_tokens": integer(0, _MAX),
    "min_length": integer(0, _MAX),
    "stop_strings": stop_strings,
    "eos_token_id": _one_or_more(token_ids),
    "forced_eos_token_id": _one_or_more(token_ids),
}
"""What is honoured, from a request and from a model's own file."""

REQUEST_FIELDS: dict[str, Check] = {"num_return_sequences": integer(1, MAX_CHOICES)}
"""What is honoured from a request only: it becomes `n`."""

CONFIG_NEUTRAL: dict[str, tuple[Any, ...]] = {
    # beams
    "num_beams": (1,), "num_beam_groups": (1,), "length_penalty": (1,), "early_stopping": (False,),
    "diversity_penalty": (0,), "constraints": ([],), "force_words_ids": ([],),
    # a second forward pass, or another's layers
    "guidance_scale": (1,), "penalty_alpha": (0,), "dola_layers": (),
    # a second model
    "is_assistant": (False,), "assistant_early_exit": (), "assistant_ensemble_weight": (),
    # of encoders and decoders
    "encoder_no_repeat_ngram_size": (0,), "encoder_repetition_penalty": (1,), "forced_bos_token_id": (),
    "max_time": (), "token_healing": (False,), "watermarking_config": (),
}  # fmt: skip
"""Attributes that we do not do, with the values at which they do nothing: refused at any other."""

CONFIG_HARMLESS = frozenset({
    "bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "_from_model_config", "use_cache",
    "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile", "prefill_chunk_size",
    "low_memory", "continuous_batching_config", "return_dict_in_generate", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits",
    # it moves all scores of a draw alike
    "renormalize_logits",
    # how tokens are guessed before the model has the last word on each
    "use_mtp", "prompt_lookup_num_tokens", "max_matching_ngram_size", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
    "speculation_type",
})  # fmt: skip
"""Attributes that say how transformers should run, or what else it should return: the text stays the same."""


def _config_schema() -> Schema:
    fates = CONFIG_FIELDS | REQUEST_FIELDS
    properties = {name: or_null(check.schema) for name, check in fates.items()}
    properties |= {name: {"enum": [*neutral, None]} for name, neutral in CONFIG_NEUTRAL.items()}
    return {"anyOf": [{"type": "object", "properties": properties}, {"type": "string"}]}


@described(_config_schema())
def read_config(value: Any, param: str) -> dict[str, Any]:
    """A request's generation_config, an object or one as a JSON string, checked as strictly as a request's own fields.

    Only what is to be honoured comes out. Raises TokenyardError naming the attribute.
    """
    if type(value) not in (dict, str):
        invalid(param, "must be an object or a JSON string")
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise TokenyardError("invalid_value", f"{param} is not valid JSON: {error}", param) from error
        if type(value) is not dict:
            invalid(param, "must hold a JSON object")
    config: dict[str, Any] = {}
    for key, one in value.items():
        name = f"{param}.{key}"
        if one is None or _is_idle(key, one):
            continue
        check = CONFIG_FIELDS.get(key) or REQUEST_FIELDS.get(key)
        if check is None:
            neutral = CONFIG_NEUTRAL.get(key)
            invalid(name, f"is supported only as {neutral[0]!r}" if neutral else "is not supported here")
        config[key] = check(one, name)
    return config


def named_ids(key: str, value: Any) -> list[int]:
    """The token ids in a checked attribute that bans, biases or forces some."""
    if key == "sequence_bias":
        return [token_id for one in value for token_id in one.token_ids]
    if key == "bad_words_ids":
        return [token_id for word in value for token_id in word]
    return value if key in ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id") else []


def own_config(card: Card) -> dict[str, Any]:
    """What is honoured of a model's own generation_config, checked."""
    config = {}
    for key, value in card.generation_config.items():
        if value is None or key not in CONFIG_FIELDS:
            continue
        try:
            checked = CONFIG_FIELDS[key](value, key)
        except TokenyardError:
            continue
        if all(token_id < card.vocab_size for token_id in named_ids(key, checked)):
            config[key] = checked
    return config


def unsupported_defaults(card: Card) -> list[str]:
    """Names in a model's own generation_config that would change its text, and that we do not do: for one warning."""
    honoured = own_config(card)
    return [
        key
        for key, value in card.generation_config.items()
        if value is not None and key not in honoured and not _is_idle(key, value)
    ]


def _is_idle(key: str, value: object) -> bool:
    return key in CONFIG_HARMLESS or value in CONFIG_NEUTRAL.get(key, ())
