"""Every attribute of transformers' GenerationConfig has its place, and a bad value is refused by its name."""

import json
from typing import Any

import pytest
from models import CARD
from transformers import GenerationConfig

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import MAX_LISTED_IDS, MAX_RUN_TOKENS, SequenceBias
from tokenyard.http.generation_config import (
    CONFIG_FIELDS,
    CONFIG_HARMLESS,
    CONFIG_NEUTRAL,
    REQUEST_FIELDS,
    own_config,
    read_config,
    unsupported_defaults,
)


def test_every_attribute_of_the_installed_class_has_its_place() -> None:
    attributes = set(vars(GenerationConfig()))  # type: ignore[no-untyped-call]
    assert len(attributes) > 60
    assert attributes <= CONFIG_FIELDS.keys() | REQUEST_FIELDS.keys() | CONFIG_NEUTRAL.keys() | CONFIG_HARMLESS


def test_no_attribute_has_two_fates() -> None:
    tables = (CONFIG_FIELDS, REQUEST_FIELDS, CONFIG_NEUTRAL, CONFIG_HARMLESS)
    assert sum(map(len, tables)) == len({name for table in tables for name in table})


def test_transformers_defaults_ask_for_nothing() -> None:
    """A client may send the whole of its config."""
    defaults = GenerationConfig._get_default_generation_params()
    assert defaults["num_beams"] == 1
    read_config(defaults, "generation_config")


REFUSED: list[tuple[str, Any]] = [
    ("num_beams", 4),
    ("num_beam_groups", 2),
    ("early_stopping", True),
    ("length_penalty", 2.0),
    ("diversity_penalty", 0.5),
    ("constraints", [{}]),
    ("force_words_ids", [[1]]),
    ("guidance_scale", 1.5),
    ("penalty_alpha", 0.6),
    ("dola_layers", "high"),
    ("is_assistant", True),
    ("assistant_early_exit", 3),
    ("assistant_ensemble_weight", 0.5),
    ("encoder_no_repeat_ngram_size", 3),
    ("encoder_repetition_penalty", 1.3),
    ("forced_bos_token_id", 1),
    ("max_time", 3.0),
    ("token_healing", True),
    ("watermarking_config", {"bias": 2.0}),
    ("custom_generate", "someone/some-repo"),
    ("logits_processor", ["x"]),
]


def test_all_that_is_refused_is_tried() -> None:
    assert CONFIG_NEUTRAL.keys() < {name for name, _ in REFUSED}


def refusal(config: Any) -> TokenyardError:
    with pytest.raises(TokenyardError) as caught:
        read_config(config, "generation_config")
    assert caught.value.code == "invalid_value"
    return caught.value


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_is_not_done_is_refused_by_name_unless_it_asks_for_nothing(name: str, value: Any) -> None:
    assert refusal({name: value}).param == f"generation_config.{name}"
    for idle in (None, *CONFIG_NEUTRAL.get(name, ())):
        assert read_config({name: idle}, "generation_config") == {}


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("temperature", "hot", ""),
        ("typical_p", 0, ""),
        ("typical_p", 1.5, ""),
        ("top_h", 0, ""),
        ("epsilon_cutoff", -0.1, ""),
        ("eta_cutoff", 2, ""),
        ("no_repeat_ngram_size", -1, ""),
        ("no_repeat_ngram_size", 2.0, ""),
        ("bad_words_ids", [1, 2], ".0"),
        ("bad_words_ids", [[]], ".0"),
        ("bad_words_ids", [[1], [-1]], ".1.0"),
        ("bad_words_ids", [[1] * (MAX_RUN_TOKENS + 1)], ".0"),
        ("sequence_bias", {"(1, 2)": 1.0}, ""),
        ("sequence_bias", [[[1], 1.0, 2]], ".0"),
        ("sequence_bias", [[[], 1.0]], ".0.0"),
        ("sequence_bias", [[[1], "x"]], ".0.1"),
        ("sequence_bias", [[[1], 1e30]], ".0.1"),
        ("suppress_tokens", [True], ".0"),
        ("suppress_tokens", [1] * (MAX_LISTED_IDS + 1), ""),
        ("begin_suppress_tokens", 5, ""),
        ("exponential_decay_length_penalty", [5], ""),
        ("exponential_decay_length_penalty", [5, 0], ".1"),
        ("exponential_decay_length_penalty", [-1, 1.1], ".0"),
        ("forced_eos_token_id", "</s>", ""),
        ("forced_eos_token_id", [1, -1], ".1"),
        ("remove_invalid_values", 1, ""),
        ("min_length", -1, ""),
        ("num_return_sequences", 0, ""),
        ("num_return_sequences", 1000, ""),
    ],
)
def test_a_bad_value_names_its_place(name: str, value: Any, where: str) -> None:
    assert refusal({name: value}).param == f"generation_config.{name}{where}"


def test_good_values_come_out_typed_from_an_object_or_its_json() -> None:
    config = {
        "bad_words_ids": [[1], [2, 3]],
        "sequence_bias": [[[1, 2], 1], [[3], -2.5], [[1, 2], 4]],
        "exponential_decay_length_penalty": [5, 2],
        "forced_eos_token_id": 7,
        "eos_token_id": [7, 8],
        "renormalize_logits": True,
    }
    read = read_config(config, "generation_config")
    assert read == read_config(json.dumps(config), "generation_config")
    assert read == {
        "bad_words_ids": [[1], [2, 3]],
        "sequence_bias": [SequenceBias([1, 2], 4.0), SequenceBias([3], -2.5)],
        "exponential_decay_length_penalty": (5, 2.0),
        "forced_eos_token_id": [7],
        "eos_token_id": [7, 8],
    }


def test_a_models_own_config_is_honoured_where_it_can_be_and_else_named() -> None:
    config = {
        "num_beams": 4,
        "typical_p": 1.0,
        "top_k": 20,
        "use_cache": True,
        "dola_layers": "high",
        "min_length": None,
        "suppress_tokens": [3, 4],
        "begin_suppress_tokens": [CARD.vocab_size],
        "sequence_bias": {"(1, 2)": 1.0},
        "top_p": 7,
        "num_return_sequences": 3,
    }
    card = CARD._replace(generation_config=config)
    assert own_config(card) == {"typical_p": 1.0, "top_k": 20, "suppress_tokens": [3, 4]}
    assert unsupported_defaults(card) == [
        "num_beams",
        "dola_layers",
        "begin_suppress_tokens",
        "sequence_bias",
        "top_p",
        "num_return_sequences",
    ]
