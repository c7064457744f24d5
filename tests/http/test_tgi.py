"""TGI's API: its clients' own dataclasses and client, against the real server; fields and errors on a scripted pool."""

import asyncio
import dataclasses
import inspect
import json
from typing import Any

import httpx
import pytest
from front import ask, post
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import ValidationError
from huggingface_hub.inference._generated.types import (
    TextGenerationInputGenerateParameters,
    TextGenerationOutput,
    TextGenerationStreamOutput,
)
from models import CARD
from scripted import ScriptedPool
from yard import Yard

from tokenyard.http.tgi.fields import PARAMETERS, parse
from tokenyard.http.tgi.routes import EMBED

PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
"""/generate renders no template."""


def test_every_parameter_of_the_client_has_its_place() -> None:
    fields = {field.name for field in dataclasses.fields(TextGenerationInputGenerateParameters)}
    assert len(fields) > 15
    assert fields <= PARAMETERS.keys()


def test_who_shapes_the_draw_samples() -> None:
    def config(**parameters: Any) -> Any:
        request = parse({"inputs": "a", "parameters": parameters}, "m", None)
        return request.sampling["generation_config"]

    assert config() == {"do_sample": False}
    assert config(do_sample=True) == {"do_sample": True}
    assert config(temperature=0.5) == {"do_sample": True, "temperature": 0.5}
    assert config(typical_p=0.5) == {"do_sample": True, "typical_p": 0.5}
    assert config(repetition_penalty=1.1) == {"do_sample": False}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "inputs is required"),
        ({"inputs": ""}, "inputs must have"),
        ({"inputs": 5}, "inputs must be a string"),
        ({"inputs": "a", "parameters": []}, "parameters must be an object"),
        ({"inputs": "a", "parameters": {"temperature": 0}}, "parameters.temperature must be"),
        ({"inputs": "a", "parameters": {"max_new_tokens": 0}}, "parameters.max_new_tokens must be"),
        ({"inputs": "a", "parameters": {"max_new_tokens": 99_999}}, "parameters.max_new_tokens is 99999"),
        ({"inputs": "a", "parameters": {"watermark": True}}, "parameters.watermark is not supported"),
        ({"inputs": "a", "parameters": {"adapter_id": "x"}}, "parameters.adapter_id is not supported"),
        ({"inputs": "a", "parameters": {"best_of": 2}}, "parameters.best_of above 1"),
        ({"inputs": "a", "parameters": {"grammar": {"type": "xml"}}}, "parameters.grammar.type must be"),
        ({"inputs": "a", "parameters": {"stop": [""]}}, "parameters.stop.0 must have"),
        ({"inputs": "a", "model": "none"}, "'none' is not served"),
        ({"inputs": "a", "model": "none", "parameters": {"seed": -1}}, "parameters.seed must be"),
    ],
)
def test_errors_have_tgis_shape(body: dict[str, Any], words: str) -> None:
    response, _ = post("/generate", body)
    assert 400 <= response.status_code < 500
    assert response.json()["error_type"] == "validation"
    assert words in response.json()["error"]


def test_every_field_of_a_feature_extraction_has_its_place() -> None:
    fields = set(inspect.signature(InferenceClient.feature_extraction).parameters) - {"self", "text"}
    assert fields <= EMBED.keys()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "inputs is required"),
        ({"inputs": "a", "normalize": False}, "normalize is not taken"),
        ({"inputs": "a", "prompt_name": "query"}, "prompt_name is not supported"),
        ({"inputs": "a", "truncation_direction": "left"}, "truncation_direction is not supported"),
        ({"inputs": "a", "truncate": "yes"}, "truncate must be"),
        ({"inputs": "a", "encoding_format": "base64"}, "encoding_format must be 'float'"),
        ({"inputs": "a", "dimensions": 0}, "dimensions must be"),
    ],
)
def test_a_feature_extraction_leaves_no_field_aside(body: dict[str, Any], words: str) -> None:
    pool = ScriptedPool(CARD._replace(lane="encoder"))
    response = ask(pool, "POST", "/", json=body)
    assert (response.status_code, words in response.json()["error"]) == (400, True)


def test_a_stream_has_a_token_an_event_and_an_end() -> None:
    response, _ = post("/generate_stream", {"inputs": "a"})
    lines = [line for line in response.text.split("\n\n") if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    assert "".join(event["token"]["text"] for event in events) == "Hello 🤖!"
    assert [event["generated_text"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["generated_text"] == "Hello 🤖!"
    assert events[-1]["details"]["finish_reason"] == "eos_token"
    assert events[-1]["token"]["special"]


@pytest.mark.slow
class TestClient:
    def test_text(self, server: Yard) -> None:
        client = InferenceClient(model=server.url)
        text = client.text_generation(PROMPT, max_new_tokens=40)
        assert "Paris" in text
        assert "".join(client.text_generation(PROMPT, max_new_tokens=40, stream=True)) == text
        full = client.text_generation(PROMPT, max_new_tokens=40, return_full_text=True)
        assert full == PROMPT + text

    def test_details(self, server: Yard) -> None:
        client = InferenceClient(model=server.url)
        whole = client.text_generation(
            PROMPT, max_new_tokens=40, details=True, decoder_input_details=True, top_n_tokens=2
        )
        assert isinstance(whole, TextGenerationOutput)
        assert whole.details is not None
        assert whole.details.finish_reason == "eos_token"
        assert len(whole.details.prefill) > 10
        assert whole.details.prefill[1].logprob <= 0
        assert all(len(top) == 2 for top in whole.details.top_tokens or [])
        assert "".join(token.text for token in whole.details.tokens if not token.special) == whole.generated_text
        assert whole.details.tokens[-1].special
        *_, last = client.text_generation(PROMPT, max_new_tokens=5, details=True, stream=True)
        assert isinstance(last, TextGenerationStreamOutput)
        assert last.details is not None
        assert (last.details.finish_reason, last.details.generated_tokens) == ("length", 5)

    def test_stops_seeds_and_grammars(self, server: Yard) -> None:
        client = InferenceClient(model=server.url)
        stopped = client.text_generation(PROMPT, max_new_tokens=40, stop=["Paris"], details=True)
        assert stopped.details is not None
        assert stopped.details.finish_reason == "stop_sequence"
        assert stopped.generated_text.endswith("Paris")
        drawn = [client.text_generation("zq", max_new_tokens=8, temperature=2.0, seed=5) for _ in range(2)]
        assert drawn[0] == drawn[1]
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        grammar: Any = {"type": "json", "value": schema}
        assert isinstance(json.loads(client.text_generation(PROMPT, max_new_tokens=60, grammar=grammar))["a"], int)
        with pytest.raises(ValidationError):
            client.text_generation(PROMPT, max_new_tokens=99_999)

    async def _async(self, url: str) -> list[str]:
        async with AsyncInferenceClient(model=url) as client:
            stream = await client.text_generation(PROMPT, max_new_tokens=20, stream=True)
            return ["".join([text async for text in stream]), await client.text_generation(PROMPT, max_new_tokens=20)]

    def test_async(self, server: Yard) -> None:

        streamed, whole = asyncio.run(self._async(server.url))
        assert streamed == whole

    def test_info(self, server: Yard) -> None:
        info = httpx.get(f"{server.url}/info").json()
        assert (info["model_id"], info["model_pipeline_tag"]) == ("tokenyard-demo", "text-generation")
        assert info["max_total_tokens"] > info["max_input_tokens"] > 1000
