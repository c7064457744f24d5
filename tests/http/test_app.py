"""The API's routes, from a request to what the pool is asked and what the client gets."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from front import CHAT, COMPLETIONS, OPTIONS, ask, events, post, request, says
from models import CARD, demo_tokenizer
from scripted import ScriptedPool

from tokenyard.broker.errors import KINDS
from tokenyard.http.app import create_app
from tokenyard.http.chat import ChatFormat
from tokenyard.http.pool import Pool

MESSAGES = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def test_models_are_listed_and_found_by_any_name() -> None:
    pool = ScriptedPool(CARD)
    listed = ask(pool, "GET", "/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["demo"]
    assert ask(pool, "GET", "/v1/models/alias").json() == listed["data"][0]
    missing = ask(pool, "GET", "/v1/models/org/other")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_ready_only_with_a_model_whose_tokenizer_is_loaded() -> None:
    async def run() -> list[int]:
        pool = ScriptedPool(CARD)
        app = create_app(cast(Pool, pool), OPTIONS)
        statuses = [(await request(app, "GET", "/ready")).status_code]
        await request(app, "POST", COMPLETIONS, json={"model": "demo", "prompt": ""})
        return [*statuses, (await request(app, "GET", "/ready")).status_code]

    assert asyncio.run(run()) == [503, 200]


@pytest.mark.parametrize(("connected", "code"), [(False, "pool_unavailable"), (True, "model_loading")])
def test_with_no_model_yet_clients_are_told_to_come_back(connected: bool, code: str) -> None:
    pool = ScriptedPool()
    pool.connected = connected
    for method, path in (("GET", "/ready"), ("POST", CHAT)):
        response = ask(pool, method, path, json=MESSAGES)
        assert (response.status_code, response.json()["error"]["code"]) == (503, code)
        assert response.headers["retry-after"] == "1"
    assert ask(pool, "GET", "/health").status_code == 200


def test_a_chat_answer() -> None:
    response, (job,) = post(
        CHAT, {**MESSAGES, "max_tokens": 50, "temperature": 0.5, "seed": 3, "cache_salt": "s", "priority": 2}
    )
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello 🤖!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    params = job.request.params
    assert (params.max_tokens, params.temperature, params.seed, params.cache_salt) == (50, 0.5, 3, "s")
    assert (job.request.model, job.request.priority) == ("demo", 2)


def test_a_chat_stream() -> None:
    response, _ = post(CHAT, {**MESSAGES, "stream": True, "stream_options": {"include_usage": True}})
    first, *middle, finish, usage = events(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle) == "Hello 🤖!"
    assert (finish["choices"][0]["delta"], finish["choices"][0]["finish_reason"]) == ({}, "stop")
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(demo_tokenizer().backend.encode("Hello 🤖!").ids) + 1
    assert all(chunk["usage"] is None for chunk in (first, *middle, finish))
    assert (
        len(
            {
                (chunk["id"], chunk["created"], chunk["model"], chunk["object"])
                for chunk in (first, *middle, finish, usage)
            }
        )
        == 1
    )


@pytest.mark.parametrize(
    "fields",
    [{}, {"n": 2}, {"stream_options": {"include_usage": True}}, {"stop": ["END"]}, {"tools": [TOOL]}],
    ids=lambda fields: next(iter(fields), "plain"),
)
def test_chunks_of_text_are_the_same_from_their_template(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenyard.http.plans.secrets.token_hex", lambda size: "0" * 2 * size)
    monkeypatch.setattr("tokenyard.http.plans.time.time", lambda: 0)
    play = says('<think>\nHm.\n</think>\n\n"Zwölf",\tsaid\u2028the 🤖 \\ and <tool_call> is not END\x00 of it.')
    body = {**MESSAGES, "stream": True, **fields}
    quick = post(CHAT, body, play)[0].content
    monkeypatch.setattr(ChatFormat, "_look_whether_settled", lambda *_: None)
    assert post(CHAT, body, play)[0].content == quick


def test_usage_only_when_asked_and_all_the_time_when_asked() -> None:
    plain, _ = post(CHAT, {**MESSAGES, "stream": True})
    assert all("usage" not in event for event in events(plain))
    both = {"include_usage": True, "continuous_usage_stats": True}
    for path, body in ((CHAT, MESSAGES), (COMPLETIONS, {"model": "demo", "prompt": "x"})):
        response, _ = post(path, {**body, "stream": True, "stream_options": both})
        counts = [event["usage"]["completion_tokens"] for event in events(response)]
        assert counts == sorted(counts)
        assert counts[-1] > counts[0]


def test_n_choices_have_seeds_of_their_own_and_count_the_prompt_once() -> None:
    response, jobs = post(CHAT, {**MESSAGES, "n": 3, "seed": 11})
    body = response.json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len({job.request.params.seed for job in jobs}) == 3
    assert body["usage"]["prompt_tokens"] == len(jobs[0].request.prompt_ids)
    again, same_jobs = post(CHAT, {**MESSAGES, "n": 3, "seed": 11})
    assert [job.request.params.seed for job in same_jobs] == [job.request.params.seed for job in jobs]
    assert again.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs_describe_every_shown_token(stream: bool) -> None:
    response, _ = post(CHAT, {**MESSAGES, "logprobs": True, "top_logprobs": 2, "stream": stream})
    choices = [event["choices"][0] for event in events(response)] if stream else response.json()["choices"]
    entries = [entry for choice in choices for entry in (choice["logprobs"] or {"content": []})["content"]]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == "Hello 🤖!"
    assert [top["logprob"] for top in entries[0]["top_logprobs"]] == [-0.5, -9999.0]


@pytest.mark.parametrize("stream", [False, True])
def test_completion_logprobs_are_parallel_lists(stream: bool) -> None:
    response, _ = post(COMPLETIONS, {"model": "demo", "prompt": "x", "logprobs": 1, "stream": stream})
    choices = [event["choices"][0] for event in events(response)] if stream else response.json()["choices"]
    joined: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for choice in choices:
        for name, values in joined.items():
            values += choice["logprobs"][name]
    assert len({len(values) for values in joined.values()}) == 1
    assert joined["tokens"][0] == "Hello"
    assert joined["top_logprobs"][0] == {"Hello": -0.5}
    assert joined["text_offset"][:2] == [0, 5]


def test_completions_of_several_prompts() -> None:
    response, jobs = post(COMPLETIONS, {"model": "demo", "prompt": ["a", "b c"], "n": 2})
    body = response.json()
    assert body["object"] == "text_completion"
    assert [choice["text"] for choice in body["choices"]] == ["Hello 🤖!"] * 4
    ids = [job.request.prompt_ids for job in jobs]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert body["usage"]["prompt_tokens"] == len(ids[0]) + len(ids[2])
    too_many, _ = post(COMPLETIONS, {"model": "demo", "prompt": ["a"] * 65, "n": 2})
    assert (too_many.status_code, too_many.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("stream", [False, True])
def test_token_ids_are_returned_when_asked(path: str, stream: bool) -> None:
    body = MESSAGES if path == CHAT else {"model": "demo", "prompt": "x"}
    response, _ = post(path, {**body, "return_token_ids": True, "stream": stream})
    choices = [event["choices"][0] for event in events(response)] if stream else response.json()["choices"]
    ids = [token_id for choice in choices for token_id in choice.get("token_ids", [])]
    assert ids == [*demo_tokenizer().backend.encode("Hello 🤖!").ids, CARD.eos_token_ids[0]]


def test_tool_calls_in_one_body() -> None:
    body = {**MESSAGES, "tools": [TOOL]}
    choice = post(CHAT, body, says(f"Sure.\n{CALL}"))[0].json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Sure.", "tool_calls")
    assert (call["type"], call["function"]) == ("function", {"name": "add", "arguments": '{"a": 1}'})
    assert post(CHAT, body, says(CALL))[0].json()["choices"][0]["message"]["content"] is None
    text = post(CHAT, body, says("No call."))[0].json()["choices"][0]
    assert (text["message"]["content"], text["finish_reason"]) == ("No call.", "stop")
    assert "tool_calls" not in text["message"]
    ignored = post(CHAT, {**body, "tool_choice": "none"}, says(CALL))[0].json()["choices"][0]
    assert (ignored["message"]["content"], ignored["finish_reason"]) == (CALL, "stop")


def test_tool_calls_in_a_stream() -> None:
    response, _ = post(CHAT, {**MESSAGES, "tools": [TOOL], "stream": True}, says(f"Sure.\n{CALL}\n{CALL}"))
    deltas = [event["choices"][0]["delta"] for event in events(response)]
    assert "".join(delta.get("content", "") for delta in deltas) == "Sure."
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    heads = [call for call in calls if "id" in call]
    assert [(call["index"], call["type"], call["function"]["name"]) for call in heads] == [
        (0, "function", "add"),
        (1, "function", "add"),
    ]
    assert len({call["id"] for call in heads}) == 2
    for index in range(2):
        arguments = [call["function"]["arguments"] for call in calls if call["index"] == index]
        assert "".join(arguments) == '{"a": 1}'
        assert len(arguments) > 2
    assert events(response)[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("said", ["<think>\nOne, two.\n</think>\n\nThree.", "<think>One, two.</think>Three."])
def test_a_thought_is_told_apart_and_counted(said: str, stream: bool) -> None:
    body = {**MESSAGES, "stream": stream} | ({"stream_options": {"include_usage": True}} if stream else {})
    response, _ = post(CHAT, body, says(said))
    if stream:
        *chunks, last = events(response)
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        message = {key: "".join(one.get(key, "") for one in deltas) for key in ("content", "reasoning_content")}
        assert len([one for one in deltas if "reasoning_content" in one]) > 1
    else:
        last = response.json()
        message = last["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("One, two.", "Three.")
    usage = last["usage"]
    assert 4 <= usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"] - 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_thought_can_be_kept_back(stream: bool) -> None:
    body = {**MESSAGES, "stream": stream, "include_reasoning": False}
    response, _ = post(CHAT, body, says("<think>\nOne.\n</think>\n\nTwo."))
    assert "reasoning_content" not in response.text
    choices = [event["choices"][0] for event in events(response)] if stream else response.json()["choices"]
    assert "".join(one["delta" if stream else "message"].get("content", "") for one in choices) == "Two."


def test_a_thought_that_the_prompt_opened() -> None:
    body = {**MESSAGES, "chat_template_kwargs": {"enable_thinking": True}}
    message = post(CHAT, body, says("Hm.\n</think>\n\nYes."))[0].json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes.")
    message = post(CHAT, MESSAGES, says("Hm.\n</think>\n\nYes."))[0].json()["choices"][0]["message"]
    assert message["content"] == "Hm.\n</think>\n\nYes."


def test_parallel_calls_can_be_turned_off() -> None:
    body = {**MESSAGES, "tools": [TOOL], "parallel_tool_calls": False}
    choice = post(CHAT, body, says(f"{CALL}\n{CALL}"))[0].json()["choices"][0]
    assert len(choice["message"]["tool_calls"]) == 1


@pytest.mark.parametrize("code", sorted(KINDS))
@pytest.mark.parametrize("stream", [True, False])
def test_every_failure_of_the_pool_has_its_status(code: str, stream: bool) -> None:
    response, _ = post(CHAT, {**MESSAGES, "stream": stream}, lambda job: job.fail(code, retry_ms=1500))
    assert response.status_code == KINDS[code].status
    assert response.json()["error"] == {
        "message": "scripted words",
        "type": KINDS[code].type,
        "param": None,
        "code": code,
    }
    assert response.headers["retry-after"] == "2"


def test_a_tokenizer_that_cannot_be_loaded_fails_its_requests_only(tmp_path: Path) -> None:
    pool = ScriptedPool(CARD._replace(names=["broken"], source=str(tmp_path)), CARD)
    pool.play = says("fine")

    async def run() -> list[int]:
        app = create_app(cast(Pool, pool), OPTIONS)
        return [
            (await request(app, "POST", CHAT, json={**MESSAGES, "model": name})).status_code
            for name in ("broken", "demo")
        ]

    assert asyncio.run(run()) == [500, 200]
