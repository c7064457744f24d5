"""/v1/messages and count_tokens, from a request to what the pool is asked and what the client gets."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from anthropic.types import ErrorResponse, Message, MessageTokensCount, RawMessageStreamEvent
from front import ask, post, says, typed_events
from models import CARD, demo_tokenizer
from scripted import Job, ScriptedPool
from strict import validated

from tokenyard.broker.errors import KINDS
from tokenyard.http.anthropic.errors import TYPES

PATH = "/v1/messages"
BODY: dict[str, Any] = {"model": "demo", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def prompt_of(job: Job) -> str:
    text: str = demo_tokenizer().backend.decode(job.request.prompt_ids, skip_special_tokens=False)
    return text


def after(num_turns: int, act: Callable[[], None]) -> None:
    """Once the event loop has turned so often: headers are out then."""
    asyncio.get_running_loop().call_soon(lambda: after(num_turns - 1, act) if num_turns else act())


def whole(fields: dict[str, Any], words: str = "Hello 🤖!") -> dict[str, Any]:
    """The body of an answer; validated."""
    response, _ = post(PATH, {**BODY, **fields}, says(words))
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    validated(Message, body)
    return body


def stream(fields: dict[str, Any], words: str = "Hello 🤖!") -> list[Any]:
    """The events of an answer without the pings; validated."""
    response, _ = post(PATH, {**BODY, **fields, "stream": True}, says(words))
    events = [event for event in typed_events(response) if event["type"] != "ping"]
    for event in events:
        validated(RawMessageStreamEvent, event)
    return events


def refusal(fields: dict[str, Any], status: int = 400) -> str:
    """The words of an error; validated."""
    response, jobs = post(PATH, {**BODY, **fields})
    assert (response.status_code, jobs) == (status, [])
    error = validated(ErrorResponse, response.json()).error
    assert error.type == TYPES.get(status, "invalid_request_error")
    words: str = error.message
    return words


def test_an_answer() -> None:
    body = whole({})
    assert body["content"] == [{"type": "text", "text": "Hello 🤖!"}]
    assert (body["role"], body["model"]) == ("assistant", "demo")
    assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
    assert body["id"].startswith("msg_")


def test_what_reaches_the_pool() -> None:
    fields = {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "system": [{"type": "text", "text": "Be kind."}], "seed": 3}
    _, (job,) = post(PATH, {**BODY, **fields})
    params = job.request.params
    assert (params.max_tokens, params.temperature, params.top_k, params.top_p, params.seed) == (50, 0.5, 7, 0.9, 3)
    assert prompt_of(job) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_stream() -> None:
    start, begin, *deltas, end, last, stop = stream({})
    assert start["message"]["content"] == []
    assert start["message"]["usage"]["input_tokens"] > 0
    assert begin == {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    assert "".join(delta["delta"]["text"] for delta in deltas) == "Hello 🤖!"
    assert end == {"type": "content_block_stop", "index": 0}
    assert last["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert last["usage"]["output_tokens"] == len(demo_tokenizer().backend.encode("Hello 🤖!").ids) + 1
    assert stop == {"type": "message_stop"}


def test_cached_input_is_counted_apart() -> None:
    def play(job: Job) -> None:
        job.sink.delta([], {"cached_tokens": 4}, None)
        job.say("Hi")
        job.end()

    response, (job,) = post(PATH, {**BODY, "stream": True}, play)
    start, *_, last, _ = typed_events(response)
    num_prompt = len(job.request.prompt_ids)
    for usage in (start["message"]["usage"], last["usage"]):
        assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (num_prompt - 4, 4)


def test_a_stop_sequence_is_named() -> None:
    fields = {"stop_sequences": ["xyz", " 🤖"]}
    body = whole(fields)
    assert body["content"] == [{"type": "text", "text": "Hello"}]
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", " 🤖")
    assert stream(fields)[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": " 🤖"}


@pytest.mark.parametrize(("max_tokens", "reason"), [(50, "max_tokens"), (100_000, "model_context_window_exceeded")])
def test_an_answer_that_was_cut_says_by_what(max_tokens: int, reason: str) -> None:
    def play(job: Job) -> None:
        job.run()
        job.say("Hello")
        job.end("length")

    response, (job,) = post(PATH, {**BODY, "max_tokens": max_tokens}, play)
    assert response.json()["stop_reason"] == reason
    assert job.request.params.max_tokens == min(max_tokens, CARD.context_length - len(job.request.prompt_ids))


def test_a_call_in_one_body() -> None:
    body = whole({"tools": [TOOL]}, f"Sure.\n{CALL}")
    text, call = body["content"]
    assert text == {"type": "text", "text": "Sure."}
    assert (call["name"], call["input"], body["stop_reason"]) == ("add", {"a": 1}, "tool_use")
    assert call["id"].startswith("toolu_")
    assert len(whole({"tools": [TOOL]}, f"{CALL}\n{CALL}")["content"]) == 2
    single = {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    assert len(whole(single, f"{CALL}\n{CALL}")["content"]) == 1
    assert whole({"tools": [TOOL], "tool_choice": {"type": "none"}}, CALL)["content"] == [
        {"type": "text", "text": CALL}
    ]


def test_calls_in_a_stream() -> None:
    events = stream({"tools": [TOOL]}, f"Sure.\n{CALL}\n{CALL}")
    starts = [event for event in events if event["type"] == "content_block_start"]
    assert [event["index"] for event in starts] == [0, 1, 2]
    assert starts[1]["content_block"] | {"id": ""} == {"type": "tool_use", "id": "", "name": "add", "input": {}}
    json = [
        event["delta"]["partial_json"] for event in events if event.get("delta", {}).get("type") == "input_json_delta"
    ]
    assert "".join(json) == '{"a": 1}{"a": 1}'
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_call_and_its_result_are_in_the_prompt() -> None:
    messages = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "2"}]},
    ]
    _, (job,) = post(PATH, {**BODY, "messages": messages, "tools": [TOOL]})
    assert prompt_of(job).endswith(
        f"<|im_start|>assistant\n{CALL}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_trailing_assistant_is_continued() -> None:
    messages = [*BODY["messages"], {"role": "assistant", "content": "The answer is ("}]
    _, (job,) = post(PATH, {**BODY, "messages": messages})
    assert prompt_of(job).endswith("<|im_start|>assistant\nThe answer is (")


@pytest.mark.parametrize(
    ("fields", "opens_thought"),
    [
        ({}, False),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, True),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"output_config": {"effort": "low"}}, False),
    ],
)
def test_thinking_is_said_in_the_templates_words(fields: dict[str, Any], opens_thought: bool) -> None:
    _, (job,) = post(PATH, {**BODY, **fields})
    assert prompt_of(job).endswith("<think>\n") == opens_thought


def test_a_schema_for_the_text() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for fields in (
        {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
        {"output_format": {"type": "json_schema", "schema": schema}},
    ):
        _, (job,) = post(PATH, {**BODY, **fields})
        grammar = job.request.params.grammar
        assert grammar is not None
        assert (grammar.kind, grammar.param.split(".")[0]) == ("json_schema", next(iter(fields)))
    both = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    assert refusal({**both, "output_format": both["output_config"]["format"]}).startswith("output_format")
    _, (job,) = post(PATH, {**BODY, **both, "tools": [TOOL]})
    assert job.request.params.grammar is not None
    assert job.request.params.grammar.kind == "structural_tag"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "add"}])
def test_a_call_can_be_forced(choice: dict[str, Any]) -> None:
    response, (job,) = post(PATH, {**BODY, "tools": [TOOL], "tool_choice": choice}, says(CALL))
    assert response.json()["stop_reason"] == "tool_use"
    assert job.request.params.grammar is not None
    assert job.request.params.grammar.kind == "structural_tag"


def test_tokens_are_counted_as_they_are_sent() -> None:
    fields = {"tools": [TOOL], "system": "Be kind.", "thinking": {"type": "adaptive"}}
    _, (job,) = post(PATH, {**BODY, **fields})
    body = {"model": "demo", "messages": BODY["messages"], **fields}
    response = ask(ScriptedPool(CARD), "POST", f"{PATH}/count_tokens", json=body)
    validated(MessageTokensCount, response.json())
    assert response.json() == {"input_tokens": len(job.request.prompt_ids)}


def test_refusals_name_the_field() -> None:
    assert refusal({"messages": [{"role": "user", "content": [{"type": "image"}]}]}).startswith(
        "messages.0.content.0.type"
    )
    assert refusal({"system": [{"type": "text"}]}).startswith("system.0.text")
    assert refusal({"tools": [{"name": "add"}]}).startswith("tools.0.input_schema")
    strict = {**TOOL, "strict": True, "input_schema": {"type": "object", "not": {}}}
    assert refusal({"tools": [strict]}).startswith("tools.0.input_schema.not ")
    assert refusal({"max_tokens": None}).startswith("max_tokens is required")
    assert refusal({"messages": None}).startswith("messages is required")
    assert refusal({"model": "none"}, 404)


def test_a_prompt_that_does_not_fit_is_refused_in_words_that_claude_code_reads() -> None:
    words = refusal({"messages": [{"role": "user", "content": "word " * 5000}]})
    assert "prompt is too long: " in words
    assert f" tokens > {CARD.context_length - 1} maximum" in words


@pytest.mark.parametrize("code", sorted(KINDS))
@pytest.mark.parametrize("stream", [False, True])
def test_failures_before_the_answer_have_a_status(code: str, stream: bool) -> None:
    response, _ = post(PATH, {**BODY, "stream": stream}, lambda job: job.fail(code))
    assert response.status_code == KINDS[code].status
    validated(ErrorResponse, response.json())


def test_failures_in_a_stream_are_an_error_event() -> None:
    def play(job: Job) -> None:
        job.run()
        job.say("Hello")
        after(20, lambda: job.fail("pool_unavailable"))

    response, _ = post(PATH, {**BODY, "stream": True}, play)
    error = typed_events(response)[-1]
    validated(ErrorResponse, error)
    assert error["error"] == {"type": "overloaded_error", "message": "scripted words"}


def test_all_below_the_path_fails_in_anthropics_shape() -> None:
    for method, path, status in (("GET", PATH, 405), ("POST", f"{PATH}/batches", 404), ("POST", PATH, 400)):
        response = ask(ScriptedPool(CARD), method, path, content=b"{")
        assert response.status_code == status
        validated(ErrorResponse, response.json())
