"""/v1/responses over a scripted pool: what the pool is asked, what the client gets, what is kept."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk import Desk
from front import says
from scripted import Job
from shapes import unknown_to_openai, unknown_to_openresponses

from tokenyard.broker.errors import KINDS
from tokenyard.http.responses.database import Database

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}

OURS = {
    *("response.store", "response.presence_penalty", "response.frequency_penalty"),
    *("logprobs.bytes", "logprobs.top_logprobs.bytes"),
}
"""Fields that openresponses has and openai's types have not (its API sends `bytes` all the same)."""
OPENAIS = {"response.user", "response.conversation", "response.usage.input_tokens_details.cache_write_tokens"}
"""The other way round; the SDK's types require the last."""


def text_of(body: dict[str, Any]) -> str:
    (item,) = body["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    return str(item["content"][0]["text"])


def check_shapes(value: dict[str, Any], openresponses: bool = True) -> None:
    """Against both packages' types."""
    prefix = "" if "sequence_number" in value else "response."
    assert {prefix + name for name in unknown_to_openai(value)} - OURS == set()
    if openresponses:
        assert {prefix + name for name in unknown_to_openresponses(value)} - OPENAIS == set()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "responses.db")


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Database]:
    """What the desk has kept."""
    database = Database(tmp_path / "responses.db")
    yield database
    database.close()


def test_a_whole_response(desk: Desk) -> None:
    fields = {"instructions": "Be brief.", "max_output_tokens": 50, "temperature": 0.5, "seed": 3, "top_k": 4}
    body = asyncio.run(desk.create(**fields, metadata={"a": "b"}, user="me"))
    assert text_of(body) == "Hello 🤖!"
    assert (body["status"], body["model"], body["metadata"], body["user"]) == ("completed", "demo", {"a": "b"}, "me")
    assert (body["instructions"], body["max_output_tokens"], body["temperature"]) == ("Be brief.", 50, 0.5)
    params = desk.pool.jobs[0].request.params
    assert (params.max_tokens, params.temperature, params.seed, params.top_k) == (50, 0.5, 3, 4)
    assert "Be brief." in desk.prompt
    assert body["usage"]["input_tokens"] == len(desk.pool.jobs[0].request.prompt_ids)
    assert body["usage"]["total_tokens"] == body["usage"]["input_tokens"] + body["usage"]["output_tokens"]
    check_shapes(body)


def test_a_stream_tells_what_a_whole_response_says(desk: Desk) -> None:
    events = asyncio.run(desk.stream(tools=[TOOL]))
    for event in events:
        check_shapes(event)
    assert text_of(events[-1]["response"]) == "Hello 🤖!"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_calls_of_functions(desk: Desk) -> None:
    desk.pool.play = says(f"Sure.\n{CALL}")
    tools = {"tools": [TOOL], "parallel_tool_calls": False, "max_tool_calls": 3}
    message, call = asyncio.run(desk.create(**tools))["output"]
    assert message["content"][0]["text"] == "Sure."
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "add", '{"a": 1}')
    assert call["status"] == "completed"
    events = asyncio.run(desk.stream(**tools))
    for event in events:
        check_shapes(event)
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "function_call"]


def test_custom_tools_and_namespaces(desk: Desk) -> None:
    calls = [{"name": "patch", "arguments": {"input": "*** Begin"}}, {"name": "shop__buy", "arguments": {}}]
    desk.pool.play = says("\n".join(f"<tool_call>\n{call}\n</tool_call>".replace("'", '"') for call in calls))
    tools = [
        {"type": "custom", "name": "patch"},
        {"type": "namespace", "name": "shop", "description": "", "tools": [{**TOOL, "name": "buy"}]},
        {"type": "web_search"},
    ]
    events = asyncio.run(desk.stream(tools=tools))
    for event in events:
        check_shapes(event, openresponses=False)  # which knows functions only
    custom, function = events[-1]["response"]["output"]
    assert (custom["type"], custom["input"]) == ("custom_tool_call", "*** Begin")
    assert (function["name"], function["namespace"]) == ("buy", "shop")
    assert [tool["type"] for tool in events[-1]["response"]["tools"]] == ["custom", "namespace"]


def test_logprobs_where_they_are_included(desk: Desk) -> None:
    wish = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    body = asyncio.run(desk.create(**wish))
    logprobs = body["output"][0]["content"][0]["logprobs"]
    assert b"".join(bytes(entry["bytes"]) for entry in logprobs).decode() == text_of(body)
    assert all(len(entry["top_logprobs"]) == 2 for entry in logprobs)
    events = asyncio.run(desk.stream(**wish))
    for event in events:
        check_shapes(event)
    streamed = [entry for event in events if "delta" in event for entry in event["logprobs"]]
    assert streamed == logprobs
    assert asyncio.run(desk.refuse(top_logprobs=2))["param"] == "top_logprobs"


def test_the_limit_of_tokens_leaves_a_response_incomplete(desk: Desk) -> None:
    def play(job: Job) -> None:
        job.run()
        job.say("Hello")
        job.end("length")

    desk.pool.play = play
    body = asyncio.run(desk.create())
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["output"][0]["status"] == "incomplete"
    last = asyncio.run(desk.stream())[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")
    check_shapes(last)


@pytest.mark.parametrize("code", sorted(KINDS))
@pytest.mark.parametrize("stream", [True, False])
def test_failures_before_the_first_token_are_http_errors(desk: Desk, code: str, stream: bool) -> None:
    desk.pool.play = lambda job: job.fail(code)

    async def run() -> None:
        answer = await desk.ask("POST", json={"model": "demo", "input": "hi", "stream": stream})
        assert (answer.status_code, answer.json()["error"]["code"]) == (KINDS[code].status, code)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "ours"),
    [("worker_error", "server_error"), ("queue_full", "rate_limit_exceeded"), ("invalid_value", "invalid_prompt")],
)
def test_failures_in_mid_stream_are_the_responses_own(desk: Desk, code: str, ours: str) -> None:
    def play(job: Job) -> None:
        job.run()
        job.say("Hello")
        # Not at once: until the headers are out, a failure is an HTTP status.
        asyncio.get_running_loop().call_later(0.05, job.fail, code)

    desk.pool.play = play

    async def run() -> None:
        last = (await desk.stream())[-1]
        check_shapes(last)
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        assert last["response"]["error"] == {"code": ours, "message": "scripted words"}
        kept = (await desk.ask("GET", f"/{last['response']['id']}")).json()
        assert kept == last["response"]

    asyncio.run(run())


def test_failures_before_the_first_token_leave_nothing_behind(desk: Desk, kept: Database) -> None:
    desk.pool.play = lambda job: job.fail("queue_full")

    async def run() -> None:
        for stream in (True, False):
            await desk.ask("POST", json={"model": "demo", "input": "hi", "stream": stream})
        await desk.ask("GET", "/resp_none")  # asked after all that was written
        assert kept.totals() == (0, 0)

    asyncio.run(run())


def test_what_its_client_left_is_cancelled(desk: Desk, kept: Database) -> None:
    def play(job: Job) -> None:
        job.run()
        job.say("Hello")

    desk.pool.play = play

    async def run() -> None:
        await desk.hang_up()
        assert desk.pool.jobs[0].cancelled
        await desk.ask("GET", "/resp_none")
        ((body,),) = kept.connection.execute("SELECT body FROM responses").fetchall()
        left = json.loads(body)
        assert (left["status"], left["output"][0]["status"]) == ("cancelled", "incomplete")
        assert text_of({"output": [{**left["output"][0], "status": "completed"}]}) == "Hello"

    asyncio.run(run())


def test_going_on_waits_for_an_end_that_is_about_to_be_written(desk: Desk, kept: Database) -> None:
    """Its client has seen the last event, perhaps through another front, which writes at this moment."""

    async def run() -> None:
        body = await desk.create()
        again = {**body, "id": "resp_again", "status": "in_progress"}
        kept.begin(again, [], streams=False)
        following = asyncio.create_task(desk.create(previous_response_id="resp_again"))
        await desk.ask("GET", "/resp_again")
        kept.update({**again, "status": "completed"})
        assert (await following)["status"] == "completed"

    asyncio.run(run())


def test_logprobs_are_of_the_text_alone(desk: Desk) -> None:
    desk.pool.play = says(f"I think.\n</think>\n\nSure.\n{CALL}")
    wish = {"include": ["message.output_text.logprobs"], "reasoning": {"effort": "low"}, "tools": [TOOL]}
    thought, message, call = asyncio.run(desk.create(**wish))["output"]
    assert (thought["type"], message["type"], call["type"]) == ("reasoning", "message", "function_call")
    (part,) = message["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in part["logprobs"]).decode() == part["text"]


def test_deltas_are_padded_where_asked(desk: Desk) -> None:
    deltas = [
        event for event in asyncio.run(desk.stream(stream_options={"include_obfuscation": True})) if "delta" in event
    ]
    assert deltas
    assert all((len(event["delta"]) + len(event["obfuscation"])) % 16 == 0 for event in deltas)
    assert all("obfuscation" not in event for event in asyncio.run(desk.stream()))


def test_a_response_goes_on_from_another(desk: Desk) -> None:
    async def run() -> None:
        first = await desk.create(input="My name is Ada.", instructions="Be kind.")
        second = await desk.create(input="And mine is Bob.", previous_response_id=first["id"])
        assert second["previous_response_id"] == first["id"]
        third = await desk.create(input="Who am I?", previous_response_id=second["id"], instructions="Be brief.")
        said = ["Be brief.", "My name is Ada.", "Hello 🤖!", "And mine is Bob.", "Hello 🤖!", "Who am I?"]
        assert re.findall("|".join(map(re.escape, ["Be kind.", *set(said)])), desk.prompt) == said
        items = (await desk.ask("GET", f"/{third['id']}/input_items")).json()
        assert [item["content"][0]["text"] for item in items["data"]] == ["Who am I?"]

    asyncio.run(run())


def test_a_call_and_its_output_over_two_responses(desk: Desk) -> None:
    async def run() -> None:
        desk.pool.play = says(CALL)
        first = await desk.create(tools=[TOOL])
        output = {"type": "function_call_output", "call_id": first["output"][0]["call_id"], "output": "42"}
        await desk.create(input=[output], previous_response_id=first["id"], tools=[TOOL])
        assert CALL in desk.prompt
        assert "<tool_response>\n42\n</tool_response>" in desk.prompt

    asyncio.run(run())


def test_items_can_be_referred_to(desk: Desk) -> None:
    async def run() -> None:
        first = await desk.create()
        await desk.create(
            input=[{"type": "item_reference", "id": first["output"][0]["id"]}, {"role": "user", "content": "?"}]
        )
        assert "assistant\nHello 🤖!" in desk.prompt
        assert (await desk.refuse(input=[{"id": "msg_none"}]))["param"] == "input.0.id"

    asyncio.run(run())


def test_what_is_kept_can_be_read_listed_and_deleted(desk: Desk) -> None:
    async def run() -> None:
        inputs = [{"role": "user", "content": str(number)} for number in range(5)]
        body = await desk.create(input=inputs)
        path = f"/{body['id']}"
        assert (await desk.ask("GET", path)).json() == body
        newest = (await desk.ask("GET", f"{path}/input_items?limit=2")).json()
        assert [item["content"][0]["text"] for item in newest["data"]] == ["4", "3"]
        assert (newest["has_more"], newest["last_id"]) == (True, newest["data"][1]["id"])
        rest = (await desk.ask("GET", f"{path}/input_items?after={newest['last_id']}")).json()
        assert [item["content"][0]["text"] for item in rest["data"]] == ["2", "1", "0"]
        oldest = (await desk.ask("GET", f"{path}/input_items?order=asc&limit=1")).json()
        assert oldest["data"][0]["content"][0]["text"] == "0"
        for query, param in (("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=x", "after")):
            answer = await desk.ask("GET", f"{path}/input_items?{query}")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert (await desk.ask("GET", f"{path}?stream=true")).json()["error"]["param"] == "stream"
        assert (await desk.ask("POST", f"{path}/cancel")).status_code == 400
        deleted = (await desk.ask("DELETE", path)).json()
        assert deleted == {"id": body["id"], "object": "response", "deleted": True}
        for method, tail in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            answer = await desk.ask(method, path + tail)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert (await desk.refuse(previous_response_id=body["id"]))["param"] == "previous_response_id"

    asyncio.run(run())


def test_what_is_not_to_be_kept_is_not(desk: Desk) -> None:
    async def run() -> None:
        body = await desk.create(store=False)
        assert body["store"] is False
        assert (await desk.ask("GET", f"/{body['id']}")).status_code == 404
        desk.pool.play = lambda job: job.fail("worker_error")
        await desk.ask("POST", json={"model": "demo", "input": "hi"})
        desk.pool.play = says("x")
        assert (await desk.create())["store"] is True

    asyncio.run(run())


def test_without_a_store_what_needs_one_is_refused() -> None:
    async def run() -> None:
        desk = Desk(None)
        assert (await desk.create())["store"] is False
        for fields in ({"store": True}, {"background": True}, {"previous_response_id": "resp_1"}):
            assert (await desk.refuse(**fields))["param"] == next(iter(fields))
        assert (await desk.refuse(input=[{"id": "msg_1"}]))["param"] == "input.0.id"
        assert (await desk.ask("GET", "/resp_1")).status_code == 404

    asyncio.run(run())


def test_input_tokens_are_those_that_the_model_is_given(desk: Desk) -> None:
    async def run() -> None:
        body = {"model": "demo", "input": "How are you?", "instructions": "Be kind.", "tools": [TOOL]}
        counted = (await desk.ask("POST", "/input_tokens", json=body)).json()
        assert counted["object"] == "response.input_tokens"
        assert counted["input_tokens"] == (await desk.create(**body))["usage"]["input_tokens"]

    asyncio.run(run())


def test_the_oldest_messages_go_where_truncation_is_auto(desk: Desk) -> None:
    async def run() -> None:
        long = [{"role": "user", "content": f"{number} " + "word " * 300} for number in range(12)]
        last = {"role": "user", "content": "the last"}
        assert (await desk.refuse(input=[*long, last]))["param"] == "input"
        body = await desk.create(input=[*long, last], instructions="Be kind.", truncation="auto", max_output_tokens=100)
        assert body["truncation"] == "auto"
        assert "Be kind." in desk.prompt
        assert "the last" in desk.prompt
        assert "\n0 word" not in desk.prompt
        kept = [number for number in range(12) if f"\n{number} word" in desk.prompt]
        assert kept == list(range(kept[0], 12))
        assert len(desk.pool.jobs[-1].request.prompt_ids) > 2048 - 100 - 700, "no more went than had to"
        too_long = await desk.refuse(input="word " * 5000, truncation="auto")
        assert (too_long["code"], too_long["param"]) == ("context_length_exceeded", "input")

    asyncio.run(run())


@pytest.mark.parametrize("num_words", range(100, 400, 40))
def test_outputs_of_tools_go_with_their_calls(desk: Desk, num_words: int) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "word " * num_words}
    items = [{"role": "user", "content": "word " * num_words}, call, output] * 10
    asyncio.run(desk.create(input=[*items, {"role": "user", "content": "the last"}], truncation="auto"))
    assert 0 < desk.prompt.count("<tool_response>") == desk.prompt.count("<tool_call>") < 10


def test_choices_force_calls_by_a_grammar(desk: Desk) -> None:
    desk.pool.play = says(CALL)
    other = {**TOOL, "name": "sub"}
    named = {"type": "function", "name": "add"}
    for choice in ("required", named, {"type": "allowed_tools", "mode": "required", "tools": [named]}):
        body = asyncio.run(desk.create(tools=[TOOL, other], tool_choice=choice))
        assert (body["tool_choice"], len(body["tools"])) == (choice, 2)
        grammar = desk.pool.jobs[-1].request.params.grammar
        assert grammar is not None
        assert ("add" in grammar.text, "sub" in grammar.text) == (True, choice == "required")
        check_shapes(body)


def test_what_a_strict_function_cannot_be_held_to_is_refused_where_it_stands(desk: Desk) -> None:
    strict = {**TOOL, "strict": True, "parameters": {"type": "object", "not": {}}}
    error = asyncio.run(desk.refuse(tools=[{"type": "web_search"}, strict]))
    assert error["param"] == "tools.1.parameters.not"
    assert error["message"].startswith("tools.1.parameters.not")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"model": None}, "model"),
    ({"input": [{"role": "user"}]}, "input.0.content"),
    ({"previous_response_id": "resp_none"}, "previous_response_id"),
    ({"previous_response_id": "resp_none", "conversation": "conv_1"}, "conversation"),
    ({"conversation": "conv_none"}, "conversation"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
    ({"background": True, "store": False}, "background"),
    ({"tools": [TOOL, TOOL]}, "tools.1.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"max_output_tokens": 100_000}, "max_output_tokens"),
    ({"logit_bias": {"999999": 1}}, "logit_bias"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text.format.schema.not"),
    ({"text": {"format": {"type": "json_object"}}, "guided_json": {}}, "guided_json"),
]


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_what_does_not_fit_is_refused_by_name(desk: Desk, fields: dict[str, Any], param: str) -> None:
    assert asyncio.run(desk.refuse(**fields))["param"] == param
    assert desk.pool.jobs == []


def test_a_last_message_of_the_assistant_is_history(desk: Desk) -> None:
    items = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    asyncio.run(desk.create(input=items))
    assert desk.prompt.endswith("Well<|im_end|>\n<|im_start|>assistant\n")
    asyncio.run(desk.create(input=items, continue_final_message=True))
    assert desk.prompt.endswith("Well")
