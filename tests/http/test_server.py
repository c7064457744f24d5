"""The whole path on real processes: the openai SDK's four ways, the honoured fields, bad input that harms nobody."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from yard import Yard

pytestmark = pytest.mark.slow

MODEL = "tokenyard-demo"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
COUNT = [{"role": "user", "content": "Count from 1 to 20."}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def http(server: Yard) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def sdk(server: Yard) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(http: httpx.Client, messages: list[dict[str, str]] = QUESTION, **fields: Any) -> dict[str, Any]:
    """A chat answer's body."""
    response = http.post(CHAT, json={"model": MODEL, "messages": messages, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def text_of(body: dict[str, Any], index: int = 0) -> str:
    return str(body["choices"][index]["message"]["content"])


@pytest.fixture(scope="module")
def answer(http: httpx.Client) -> str:
    """What the model says to QUESTION, greedily."""
    text = text_of(ask(http))
    assert len(text) > 10
    return text


# The openai SDK.


def test_sdk_chat(sdk: openai.OpenAI, answer: str) -> None:
    whole = sdk.chat.completions.create(model=MODEL, messages=QUESTION)  # type: ignore[arg-type]
    assert whole.choices[0].message.content == answer
    assert whole.choices[0].finish_reason == "stop"
    stream = sdk.chat.completions.create(
        model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )  # type: ignore[arg-type, call-overload]
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens  # type: ignore[union-attr]


def test_sdk_completions(sdk: openai.OpenAI) -> None:
    wish: dict[str, Any] = {"model": MODEL, "prompt": "The capital of", "max_tokens": 8}
    whole = sdk.completions.create(**wish)
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 8
    assert (
        "".join(chunk.choices[0].text for chunk in sdk.completions.create(**wish, stream=True)) == whole.choices[0].text
    )


def test_an_echo_scores_what_was_said(sdk: openai.OpenAI) -> None:
    """As lm-evaluation-harness asks: the logprobs of given tokens are those of the same tokens drawn."""
    wish: dict[str, Any] = {"model": MODEL, "prompt": "The capital of", "logprobs": 1}
    said = sdk.completions.create(**wish, max_tokens=8, temperature=0).choices[0]
    assert said.logprobs is not None
    whole = sdk.completions.create(**wish | {"prompt": f"The capital of{said.text}"}, max_tokens=0, echo=True).choices[
        0
    ]
    assert whole.text == f"The capital of{said.text}"
    assert whole.logprobs is not None
    tail = slice(-len(said.logprobs.tokens or []), None)
    assert (whole.logprobs.tokens or [])[tail] == said.logprobs.tokens
    assert (whole.logprobs.token_logprobs or [])[tail] == pytest.approx(said.logprobs.token_logprobs, abs=1e-3)
    assert whole.logprobs.top_logprobs is not None
    for token, logprob, top in zip(
        whole.logprobs.tokens or [], whole.logprobs.token_logprobs or [], whole.logprobs.top_logprobs, strict=True
    ):
        assert top is None or top.get(token, logprob) == pytest.approx(logprob)


def test_sdk_async(server: Yard, answer: str) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            wish: dict[str, Any] = {"model": MODEL, "messages": QUESTION}
            whole, stream = await asyncio.gather(
                client.chat.completions.create(**wish), client.chat.completions.create(**wish, stream=True)
            )
            assert whole.choices[0].message.content == answer
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == answer
            short: dict[str, Any] = {"model": MODEL, "prompt": "The", "max_tokens": 4}
            text = (await client.completions.create(**short)).choices[0].text
            pieces = [chunk.choices[0].text async for chunk in await client.completions.create(**short, stream=True)]
            assert "".join(pieces) == text

    asyncio.run(run())


def test_sdk_models_and_errors(sdk: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in sdk.models.list()]
    assert sdk.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model="none", messages=QUESTION)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model=MODEL, messages=QUESTION, temperature=5)  # type: ignore[arg-type]
    assert caught.value.param == "temperature"


# Honoured fields.


@pytest.mark.parametrize("size", [2, 5])
def test_a_stop_string_is_trimmed_across_tokens(http: httpx.Client, answer: str, size: int) -> None:
    stop = answer[8 : 8 + size]
    body = ask(http, stop=stop)
    assert text_of(body) == answer[: answer.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert text_of(ask(http, stop=[stop], include_stop_str_in_output=True)) == answer[: answer.index(stop) + size]


def test_limits_are_kept_to_the_token(http: httpx.Client) -> None:
    body = ask(http, COUNT, max_tokens=7)
    assert (body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]) == (7, "length")
    body = ask(http, max_completion_tokens=40, min_tokens=40)
    assert body["usage"]["completion_tokens"] == 40
    body = ask(http, max_tokens=40, ignore_eos=True)
    assert (body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]) == (40, "length")


def test_choices_of_one_seed_differ_and_repeat(http: httpx.Client) -> None:
    wish = {
        "messages": [{"role": "user", "content": "zq"}],
        "n": 3,
        "seed": 5,
        "temperature": 2,
        "top_p": 1,
        "max_tokens": 12,
    }
    first = [text_of(ask(http, **wish), index) for index in range(3)]
    assert [text_of(ask(http, **wish), index) for index in range(3)] == first
    assert len(set(first)) == 3
    assert text_of(ask(http, **{**wish, "n": 1})) == first[0]
    assert text_of(ask(http, **{**wish, "n": 1, "seed": 6})) != first[0]


def test_a_repeated_prompt_is_found_in_the_cache(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Please count. " * 12}]
    ask(http, messages, max_tokens=1)
    cached = ask(http, messages, max_tokens=1)["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= 16
    salted = ask(http, messages, max_tokens=1, cache_salt="mine")["usage"]
    assert salted["prompt_tokens_details"]["cached_tokens"] == 0


def test_generation_config_overlays_the_models(http: httpx.Client) -> None:
    body = ask(http, COUNT, generation_config={"max_new_tokens": 5})
    assert body["usage"]["completion_tokens"] == 5
    sampled = {
        "generation_config": json.dumps({"do_sample": True, "temperature": 5.0, "max_new_tokens": 12}),
        "seed": 1,
    }
    assert text_of(ask(http, COUNT, **sampled)) != text_of(ask(http, COUNT, generation_config={"max_new_tokens": 12}))


def test_bad_words_and_repeated_words_do_not_come(http: httpx.Client, answer: str) -> None:
    assert "Paris" in answer
    text = text_of(ask(http, bad_words=["Paris", "paris"], max_tokens=40))
    assert text
    assert "Paris" not in text
    config = {"no_repeat_ngram_size": 1, "num_return_sequences": 2}
    body = ask(http, COUNT, generation_config=config, max_tokens=40, return_token_ids=True)
    assert len(body["choices"]) == 2
    ids = body["choices"][0]["token_ids"]
    assert len(ids) == len(set(ids)) > 3


def test_bans_that_leave_nothing_are_refused_with_words(http: httpx.Client) -> None:
    banned = {"allowed_token_ids": [5], "generation_config": {"suppress_tokens": [5]}}
    response = http.post(CHAT, json={"model": MODEL, "messages": QUESTION, **banned})
    assert response.status_code == 400
    assert "leave no token" in response.json()["error"]["message"]


def test_a_trailing_assistant_is_continued(http: httpx.Client, answer: str) -> None:
    begin = " ".join(answer.split()[:2])
    assert begin + text_of(ask(http, [*QUESTION, {"role": "assistant", "content": begin}])) == answer


def test_logprobs_join_to_the_text_and_greedy_is_likeliest(http: httpx.Client, answer: str) -> None:
    entries = ask(http, logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == answer
    for entry in entries:
        assert len(entry["top_logprobs"]) == 3
        assert entry["logprob"] == max(top["logprob"] for top in entry["top_logprobs"]) <= 0


def test_a_banned_token_does_not_come(http: httpx.Client) -> None:
    (first, *_) = ask(http, max_tokens=1, return_token_ids=True)["choices"][0]["token_ids"]
    banned = ask(http, max_tokens=1, return_token_ids=True, logit_bias={str(first): -100})
    assert banned["choices"][0]["token_ids"] != [first]


def test_one_request_id_twice_at_once_is_harmless(server: Yard, answer: str) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60, headers={"x-request-id": "same"}) as client:
            wish = {"model": MODEL, "messages": QUESTION}
            for response in await asyncio.gather(*(client.post(CHAT, json=wish) for _ in range(4))):
                assert text_of(response.json()) == answer
                assert response.headers["x-request-id"] == "same"

    asyncio.run(run())


# Bad input.

BAD_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 5}, "temperature"),
    ({"n": 0}, "n"),
    ({"n": 1000}, "n"),
    ({"logit_bias": {"1": 1e9}}, "logit_bias.1"),
    ({"logit_bias": {"999999": 1}}, "logit_bias"),
    ({"logit_bias": {str(index): 1 for index in range(5000)}}, "logit_bias"),
    ({"stop_token_ids": [999_999]}, "stop_token_ids"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": "word " * 20_000}]}, "messages"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"model": "none"}, "model"),
]

BAD_BODIES: list[tuple[str, bytes, str | None]] = [
    (CHAT, b"{", None),
    (CHAT, b"null", None),
    (CHAT, b"x" * 10_000_000, None),
    (CHAT, b'{"temperature": NaN}', "temperature"),
    (CHAT, b'{"messages": [{"role": "user", "content": Infinity}]}', "messages.0.content"),
    (COMPLETIONS, b'{"model": "tokenyard-demo", "prompt": [5, 2048]}', "prompt.1"),
    (COMPLETIONS, b'{"model": "tokenyard-demo", "prompt": [-1]}', "prompt.0"),
    (COMPLETIONS, b'{"model": "tokenyard-demo", "prompt": ""}', "prompt"),
    (COMPLETIONS, b'{"model": "tokenyard-demo"}', "prompt"),
]


def refused(response: httpx.Response) -> dict[str, Any]:
    """The error of a refusal in OpenAI's shape."""
    assert 400 <= response.status_code < 500, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "param"), BAD_CHATS, ids=[str(fields)[:40] for fields, _ in BAD_CHATS])
def test_a_bad_chat_is_refused_by_name_and_harms_nobody(
    http: httpx.Client, answer: str, fields: dict[str, Any], param: str, stream: bool
) -> None:
    response = http.post(CHAT, json={"model": MODEL, "messages": QUESTION, "stream": stream, **fields})
    assert refused(response)["param"] == param
    assert text_of(ask(http)) == answer


@pytest.mark.parametrize(("path", "body", "param"), BAD_BODIES, ids=[str(body[:60]) for _, body, _ in BAD_BODIES])
def test_a_bad_body_is_refused_and_harms_nobody(
    http: httpx.Client, answer: str, path: str, body: bytes, param: str | None
) -> None:
    assert refused(http.post(path, content=body))["param"] == param
    assert text_of(ask(http)) == answer


@pytest.fixture(scope="module")
def small_pool() -> Iterator[Yard]:
    """One worker whose KV pool holds some 220 tokens, of a context of thousands."""
    yard = Yard(worker_arguments=["--kv-memory", "1MiB"])
    yield yard
    yard.close()


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "word " * 400}]}, "messages"),
        (COMPLETIONS, {"prompt": "word " * 400}, "prompt"),
        (COMPLETIONS, {"prompt": [5] * 400}, "prompt"),
        (COMPLETIONS, {"prompt": "word", "max_tokens": 400}, "max_tokens"),
    ],
)
def test_what_the_kv_pool_cannot_hold_is_refused(
    small_pool: Yard, answer: str, path: str, fields: dict[str, Any], param: str
) -> None:
    with httpx.Client(base_url=small_pool.url, timeout=60) as http:
        error = refused(http.post(path, json={"model": MODEL, **fields}))
        assert (error["code"], error["param"]) == ("context_length_exceeded", param)
        assert text_of(ask(http)) == answer
