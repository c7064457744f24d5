"""The field tables: complete against the openai SDK, strict about values, and every refusal names its field."""

from typing import Any, get_args

import pytest
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.fields import CHAT, COMPLETIONS, Field, read


def sdk_fields(params: Any) -> set[str]:
    """Every field of the SDK's streaming and non-streaming parameters."""
    return {name for kind in get_args(params) for name in kind.__annotations__}


@pytest.mark.parametrize(
    ("params", "table", "least"),
    [(chat_params.CompletionCreateParams, CHAT, 30), (completion_params.CompletionCreateParams, COMPLETIONS, 15)],
)
def test_every_field_of_the_sdk_has_its_place(params: Any, table: dict[str, Field], least: int) -> None:
    names = sdk_fields(params)
    assert len(names) >= least
    assert names <= table.keys()


def test_no_field_has_two_fates() -> None:
    for field in (*CHAT.values(), *COMPLETIONS.values()):
        assert (field.honoured is not None) + (field.refused is not None) + field.harmless == 1


def refusal(body: dict[str, Any], table: dict[str, Field] = CHAT) -> TokenyardError:
    with pytest.raises(TokenyardError) as caught:
        read(body, table)
    assert caught.value.code == "invalid_value"
    return caught.value


BAD: list[tuple[str, Any, str]] = [
    ("temperature", -1, "temperature"),
    ("temperature", 5, "temperature"),
    ("temperature", "0.5", "temperature"),
    ("temperature", True, "temperature"),
    ("temperature", float("nan"), "temperature"),
    ("temperature", float("inf"), "temperature"),
    ("top_p", 0, "top_p"),
    ("top_p", 1.1, "top_p"),
    ("top_k", -2, "top_k"),
    ("top_k", 1.5, "top_k"),
    ("min_p", -0.1, "min_p"),
    ("presence_penalty", 2.1, "presence_penalty"),
    ("frequency_penalty", -2.1, "frequency_penalty"),
    ("repetition_penalty", 0, "repetition_penalty"),
    ("n", 0, "n"),
    ("n", 1000, "n"),
    ("n", True, "n"),
    ("n", 1.0, "n"),
    ("seed", 1 << 63, "seed"),
    ("seed", "1", "seed"),
    ("max_tokens", 0, "max_tokens"),
    ("max_tokens", -5, "max_tokens"),
    ("max_tokens", "ten", "max_tokens"),
    ("max_completion_tokens", 0, "max_completion_tokens"),
    ("logit_bias", {"a": 1}, "logit_bias"),
    ("logit_bias", {"-1": 1}, "logit_bias"),
    ("logit_bias", {"1": 101}, "logit_bias.1"),
    ("logit_bias", [1], "logit_bias"),
    ("logit_bias", {str(index): 1 for index in range(2000)}, "logit_bias"),
    ("stop", "", "stop"),
    ("stop", ["a", ""], "stop.1"),
    ("stop", ["a"] * 17, "stop"),
    ("stop", 1, "stop"),
    ("stop_token_ids", [-1], "stop_token_ids.0"),
    ("stop_token_ids", 1, "stop_token_ids"),
    ("stream", "yes", "stream"),
    ("stream_options", [], "stream_options"),
    ("stream_options", {"include_usage": 1}, "stream_options.include_usage"),
    ("messages", [], "messages"),
    ("messages", "hi", "messages"),
    ("model", 1, "model"),
    ("model", "", "model"),
    ("top_logprobs", 21, "top_logprobs"),
    ("logprobs", 1, "logprobs"),
    ("tools", {}, "tools"),
    ("chat_template_kwargs", [], "chat_template_kwargs"),
    ("generation_config", 3, "generation_config"),
    ("priority", 1 << 40, "priority"),
    ("response_format", {"type": "xml"}, "response_format"),
    ("audio", {"voice": "x"}, "audio"),
    ("modalities", ["text", "audio"], "modalities"),
    ("prediction", {"type": "content"}, "prediction"),
    ("functions", [{"name": "f"}], "functions"),
    ("function_call", "auto", "function_call"),
    ("web_search_options", {}, "web_search_options"),
    ("use_beam_search", True, "use_beam_search"),
    ("guided_json", 5, "guided_json"),
    ("prompt_logprobs", 21, "prompt_logprobs"),
    ("truncate_prompt_tokens", -2, "truncate_prompt_tokens"),
    ("return_tokens_as_token_ids", 1, "return_tokens_as_token_ids"),
    ("bad_words", [""], "bad_words.0"),
    ("bad_words", "word", "bad_words"),
    ("allowed_token_ids", [], "allowed_token_ids"),
    ("allowed_token_ids", [1, -1], "allowed_token_ids.1"),
    ("typical_p", 0, "typical_p"),
]


@pytest.mark.parametrize(("name", "value", "param"), BAD)
def test_bad_values_are_refused_by_name(name: str, value: Any, param: str) -> None:
    error = refusal({name: value})
    assert error.param == param
    assert error.words.startswith(param)
    assert len(error.words) < 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("echo", 1),
        ("suffix", 5),
        ("logprobs", 21),
        ("logprobs", True),
        ("prompt", {}),
        ("best_of", 0),
        ("max_tokens", -1),
    ],
)
def test_completions_have_refusals_of_their_own(name: str, value: Any) -> None:
    assert refusal({name: value}, COMPLETIONS).param == name


@pytest.mark.parametrize(
    "body",
    [
        {"audio": None, "temperature": None, "tools": None, "n": None},
        {"modalities": ["text"], "function_call": "none", "functions": []},
        {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "prompt_cache_key": "k"},
        {"client_metadata": {"x": 1}, "some_new_note": 1},
        {"early_stopping": False, "length_penalty": 1.0},
    ],
)
def test_what_asks_for_nothing_passes_and_leaves_nothing(body: dict[str, Any]) -> None:
    assert read(body, CHAT) == {}


def test_honoured_values_come_out_typed() -> None:
    body = {"temperature": 1, "logit_bias": {"5": -100}, "stop": "x", "seed": -(1 << 63), "top_k": -1}
    assert read(body, CHAT) == {**body, "temperature": 1.0, "logit_bias": {5: -100.0}, "stop": ["x"]}
