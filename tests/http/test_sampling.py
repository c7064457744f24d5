"""Request over its generation_config over the model's over OpenAI's defaults, and what must fit the model."""

import json
from typing import Any

import pytest
from models import CARD

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Params, Processors, SequenceBias
from tokenyard.http.sampling import resolve, seeds
from tokenyard.http.schemas import parse_chat, parse_completion

SAMPLED = CARD._replace(generation_config={"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95})


def params(fields: dict[str, Any], card: Any = CARD, num_prompt_tokens: int = 10) -> Params:
    request = parse_chat({"model": "demo", "messages": [{}], **fields})
    return resolve(request, card, num_prompt_tokens, []).params


def refused(fields: dict[str, Any], num_prompt_tokens: int = 10, card: Any = CARD) -> TokenyardError:
    with pytest.raises(TokenyardError) as caught:
        params(fields, card, num_prompt_tokens)
    return caught.value


def test_the_models_defaults_apply_when_the_request_is_silent() -> None:
    assert params({}).temperature == 0
    silent = params({}, SAMPLED)
    assert (silent.temperature, silent.top_k, silent.top_p) == (0.6, 20, 0.95)
    plain = params({}, CARD._replace(generation_config={}))
    assert (plain.temperature, plain.top_k, plain.top_p, plain.repetition_penalty) == (1, 0, 1, 1)


def test_request_over_overlay_over_model() -> None:
    overlay = {"generation_config": {"temperature": 0.3, "top_k": 7}}
    assert params(overlay, SAMPLED)[2:5] == (0.3, 7, 0.95)
    assert params({**overlay, "temperature": 0.1, "top_k": -1}, SAMPLED)[2:5] == (0.1, 0, 0.95)
    assert params({"generation_config": json.dumps({"temperature": 0.3})}, SAMPLED).temperature == 0.3


@pytest.mark.parametrize(
    ("fields", "temperature"),
    [
        ({}, 0),
        ({"seed": 3}, 0),
        ({"temperature": 0.7}, 0.7),
        ({"top_p": 0.9}, 1),
        ({"generation_config": {"do_sample": True}}, 1),
        ({"generation_config": {"temperature": 0.4}}, 0.4),
        ({"generation_config": {"do_sample": False, "temperature": 0.4}}, 0),
        ({"generation_config": {"do_sample": False}, "temperature": 0.7}, 0.7),
    ],
)
def test_a_greedy_model_samples_only_when_asked(fields: dict[str, Any], temperature: float) -> None:
    assert params(fields).temperature == temperature


@pytest.mark.parametrize(
    ("config", "param"),
    [
        ({"num_beams": 4}, "generation_config.num_beams"),
        ({"temperature": "hot"}, "generation_config.temperature"),
        ({"nonsense": 1}, "generation_config.nonsense"),
        ({"eos_token_id": 99_999}, "generation_config.eos_token_id"),
        ("{", "generation_config"),
        ("[1]", "generation_config"),
    ],
)
def test_a_generation_config_is_read_strictly(config: Any, param: str) -> None:
    assert refused({"generation_config": config}).param == param


def test_attributes_that_change_nothing_pass() -> None:
    neutral = {"num_beams": 1, "use_cache": True, "pad_token_id": 0, "typical_p": 1.0, "penalty_alpha": None}
    assert params({"generation_config": neutral}) == params({})


def test_the_answers_limit() -> None:
    assert params({}).max_tokens == 2038
    assert params({"max_tokens": 5}).max_tokens == 5
    assert params({"generation_config": {"max_new_tokens": 9}}).max_tokens == 9
    assert params({"generation_config": {"max_length": 30}}).max_tokens == 20
    assert params({"generation_config": {"max_new_tokens": 10**6}}).max_tokens == 2038
    completion = parse_completion({"model": "demo", "prompt": "x"})
    assert resolve(completion, CARD, 10, []).params.max_tokens == 16


@pytest.mark.parametrize("total", [1, 10])
def test_a_total_that_the_prompt_fills_is_refused(total: int) -> None:
    error = refused({"generation_config": {"max_length": total}})
    assert error.param == "generation_config.max_length"
    assert "10 tokens" in str(error)
    assert params({"generation_config": {"max_length": 11}}).max_tokens == 1


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_beyond_the_context_names_its_own_field(name: str) -> None:
    error = refused({name: 2039})
    assert (error.code, error.param) == ("context_length_exceeded", name)
    assert params({name: 2038}).max_tokens == 2038


def test_a_prompt_beyond_context_or_pool_is_refused() -> None:
    error = refused({}, 2048)
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    error = refused({}, 64, CARD._replace(pool_tokens=64))
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    assert "KV pool of 64" in error.words


def test_token_ids_must_be_the_models() -> None:
    assert refused({"stop_token_ids": [2048]}).param == "stop_token_ids"
    assert refused({"logit_bias": {"2048": 1}}).param == "logit_bias"
    assert params({"logit_bias": {"2047": 1}}).logit_bias == {2047: 1.0}


def test_stop_tokens() -> None:
    assert params({}).stop_token_ids == [2037, 2039]
    assert params({"stop_token_ids": [5]}).stop_token_ids == [5, 2037, 2039]
    assert params({"stop_token_ids": [5], "ignore_eos": True}).stop_token_ids == [5]
    assert params({"generation_config": {"eos_token_id": 7}}).stop_token_ids == [7]


def test_min_tokens_fits_under_the_limit() -> None:
    assert params({"min_tokens": 5, "max_tokens": 5}).min_tokens == 5
    assert refused({"min_tokens": 6, "max_tokens": 5}).param == "min_tokens"


def test_stop_strings_of_request_or_config() -> None:
    request = parse_chat({"model": "m", "messages": [{}], "generation_config": {"stop_strings": "a"}})
    assert resolve(request, CARD, 1, []).stop == ["a"]
    request.stop = ["b"]
    assert resolve(request, CARD, 1, []).stop == ["b"]


def test_seeds_differ_among_choices_and_repeat_for_the_same_seed() -> None:
    assert seeds(7, 1) == [7]
    assert seeds(7, 4) == seeds(7, 4)
    assert len({*seeds(7, 4), *seeds(8, 4)}) == 8
    assert seeds(-1, 1) == [2**64 - 1]
    assert seeds(None, 2) != seeds(None, 2)


FULL = {
    "sequence_bias": [[[5, 6], 2.0]],
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[7], [8, 9]],
    "forced_eos_token_id": 2037,
    "exponential_decay_length_penalty": [4, 1.5],
    "remove_invalid_values": True,
    "suppress_tokens": [10],
    "begin_suppress_tokens": [11],
    "top_h": 0.5,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 1.0,
}
PROCESSORS = Processors(
    sequence_bias=[SequenceBias([5, 6], 2.0)],
    no_repeat_ngram_size=3,
    bad_words=[[7], [8, 9]],
    forced_eos_token_ids=[2037],
    decay_start=4,
    decay_factor=1.5,
    remove_invalid_values=True,
    suppress_tokens=[10],
    begin_suppress_tokens=[11],
    top_h=0.5,
    typical_p=0.9,
    epsilon_cutoff=0.01,
    eta_cutoff=0.0,
)


def test_processors_come_from_request_or_model() -> None:
    assert params({"generation_config": FULL}).processors == PROCESSORS
    model = CARD._replace(generation_config=FULL)
    assert params({}, model).processors == PROCESSORS
    assert params({"generation_config": {"top_h": 0.7}}, model).processors == PROCESSORS._replace(top_h=0.7)
    fields = {"typical_p": 0.3, "allowed_token_ids": [1, 2]}
    assert params(fields, model).processors == PROCESSORS._replace(typical_p=0.3, allowed_token_ids=[1, 2])


def test_who_asks_for_no_processor_has_none() -> None:
    idle = {"suppress_tokens": [], "typical_p": 1.0, "epsilon_cutoff": 1.0, "exponential_decay_length_penalty": [9, 1]}
    assert params({"generation_config": idle, "bad_words": []}).processors is None


def test_what_narrows_a_draw_asks_for_one() -> None:
    assert params({"typical_p": 0.5}).temperature == 1
    assert params({"generation_config": {"eta_cutoff": 0.1}}).temperature == 1
    assert params({"typical_p": 1, "generation_config": {"eta_cutoff": 0.0, "epsilon_cutoff": 1}}).temperature == 0


@pytest.mark.parametrize(
    "config",
    [
        {"bad_words_ids": [[1, 2048]]},
        {"sequence_bias": [[[2048], 1.0]]},
        {"suppress_tokens": [2048]},
        {"begin_suppress_tokens": [2048]},
        {"forced_eos_token_id": [1, 2048]},
        {"forced_eos_token_id": [1, 2], "suppress_tokens": [1, 2, 3]},
    ],
)
def test_processors_must_fit_the_model(config: dict[str, Any]) -> None:
    assert refused({"generation_config": config}).param == f"generation_config.{next(iter(config))}"
    assert refused({"allowed_token_ids": [2048]}).param == "allowed_token_ids"


def test_min_length_counts_the_prompt() -> None:
    config = {"min_length": 25, "min_new_tokens": 7}
    assert params({"generation_config": config}).min_tokens == 15
    assert params({"generation_config": config}, num_prompt_tokens=20).min_tokens == 7
    assert params({"generation_config": config, "max_tokens": 3}).min_tokens == 3
    assert params({"generation_config": config, "min_tokens": 2}).min_tokens == 2


def test_num_return_sequences_is_n_where_the_request_names_none() -> None:
    body = {"model": "demo", "generation_config": {"num_return_sequences": 3}}
    assert parse_chat({**body, "messages": [{}]}).n == 3
    assert parse_chat({**body, "messages": [{}], "n": 2}).n == 2
    assert parse_completion({**body, "prompt": "x", "best_of": 3}).n == 3
