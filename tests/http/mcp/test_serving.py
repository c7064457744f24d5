"""Tools of real MCP servers, run by the real server for the demo model: chat completions, streaming and not."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import anthropic
import httpx
import openai
import pytest
from mcp_servers import SCRIPT, WebServer
from openai.types.responses import ResponseStreamEvent
from yard import Yard, wait_until

pytestmark = pytest.mark.slow

MODEL = "tokenyard-demo"
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER = {"type": "mcp", "server_label": "trial", "allowed_tools": ["get_weather"]}
GIVEN = "It is sunny in Paris, 21 degrees."


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    server = WebServer("http", tmp_path_factory.mktemp("web"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def yard(web: WebServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    servers = {
        "trial": {"command": sys.executable, "args": [SCRIPT, "stdio"], "default": False},
        "web": {"url": f"http://127.0.0.1:{web.port}/mcp", "default": False},
        "asking": {
            "command": sys.executable,
            "args": [SCRIPT, "stdio"],
            "default": False,
            "require_approval": ["get_weather"],
        },
        "broken": {"command": "/no/such/command", "default": False},
    }
    path = tmp_path_factory.mktemp("mcp") / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    yard = Yard(front_arguments=["--mcp", str(path)])
    with httpx.Client(base_url=yard.url) as client:

        def all_ready() -> bool:
            states = {one["label"]: one["state"] for one in client.get("/v1/mcp/servers").json()["data"]}
            return all(states[label] == "ready" for label in ("trial", "web", "asking"))

        wait_until(all_ready, "the MCP servers")
    yield yard
    yard.close()


@pytest.fixture(scope="module")
def sdk(yard: Yard) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{yard.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(yard: Yard, tools: Sequence[dict[str, Any]] = (WEATHER,), **fields: Any) -> dict[str, Any]:
    response = httpx.post(
        f"{yard.url}/v1/chat/completions",
        json={"model": MODEL, "messages": ASK, "tools": list(tools), **fields},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


@pytest.mark.parametrize("label", ["trial", "web"])
def test_a_tool_runs_here_and_the_answer_quotes_it(yard: Yard, label: str) -> None:
    body = ask(yard, [{**WEATHER, "server_label": label}])
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "stop"
    assert "21 degrees" in choice["message"]["content"]
    assert "tool_calls" not in choice["message"]
    (call,) = body["mcp"]["calls"]
    assert (call["server"], call["tool"], call["output"], call["is_error"]) == (label, "get_weather", GIVEN, False)
    assert json.loads(call["arguments"]) == {"city": "Paris"}
    assert body["usage"]["completion_tokens"] > 20  # of both turns


def test_the_sdk_sees_a_plain_stream(sdk: openai.OpenAI, yard: Yard) -> None:
    stream = sdk.chat.completions.create(model=MODEL, messages=ASK, tools=[WEATHER], stream=True)  # type: ignore[call-overload]
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ask(yard)["choices"][0]["message"]["content"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert all(chunk.choices for chunk in chunks), "no progress unless asked for"


def test_progress_is_told_where_asked_for(sdk: openai.OpenAI) -> None:
    options = {"include_mcp": True}
    stream = sdk.chat.completions.create(
        model=MODEL, messages=ASK, tools=[WEATHER], stream=True, stream_options=options
    )  # type: ignore[call-overload]
    told = [chunk.model_extra["mcp"] for chunk in stream if chunk.model_extra and "mcp" in chunk.model_extra]
    assert [one.get("event") for one in told] == ["tools_listed", "call_started", "call_finished", None]
    assert told[2]["output"] == GIVEN
    assert told[3]["calls"][0]["output"] == GIVEN


def test_servers_are_chosen_by_header(yard: Yard) -> None:
    def calls(header: str) -> list[dict[str, Any]]:
        response = httpx.post(
            f"{yard.url}/v1/chat/completions",
            json={"model": MODEL, "messages": ASK},
            headers={"X-MCP-Servers": header},
            timeout=60,
        )
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json().get("mcp", {}).get("calls", [])
        return found

    assert calls("none") == []
    assert {call["server"] for call in calls("web")} <= {"web"}
    assert (
        httpx.post(
            f"{yard.url}/v1/chat/completions",
            json={"model": MODEL, "messages": ASK},
            headers={"X-MCP-Servers": "nowhere"},
        ).json()["error"]["param"]
        == "x-mcp-servers"
    )


def test_the_clients_own_calls_come_back_to_it(yard: Yard) -> None:
    mine = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    body = ask(yard, [mine])
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert "mcp" not in body
    both = ask(yard, [mine, {**WEATHER, "allowed_tools": ["add"]}])
    assert both["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"server_label": "nowhere"}, "tools.0.server_label"),
        ({}, "tools.0.server_label"),
        ({"server_label": "trial", "server_url": "http://169.254.169.254/"}, "tools.0.server_url"),
        ({"server_label": "trial", "headers": {"a": "b"}}, "tools.0.headers"),
        ({"server_label": "trial", "authorization": "x"}, "tools.0.authorization"),
        ({"server_label": "trial", "allowed_tools": ["no_such"]}, "tools.0.allowed_tools"),
        ({"server_label": "trial", "allowed_tools": 1}, "tools.0.allowed_tools"),
        ({"server_label": "trial", "require_approval": 1}, "tools.0.require_approval"),
    ],
)
def test_wrong_choices_are_refused_by_name(yard: Yard, tool: dict[str, Any], param: str) -> None:
    response = httpx.post(
        f"{yard.url}/v1/chat/completions",
        json={"model": MODEL, "messages": ASK, "tools": [{"type": "mcp", **tool}]},
        timeout=60,
    )
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert ask(yard)["choices"][0]["finish_reason"] == "stop"


def test_n_does_not_go_with_servers_tools(yard: Yard) -> None:
    body = {"model": MODEL, "messages": ASK, "tools": [WEATHER], "n": 2}
    response = httpx.post(f"{yard.url}/v1/chat/completions", json=body, timeout=60)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")


def test_the_answers_form_holds_beside_servers_tools(yard: Yard) -> None:
    body = ask(yard, response_format={"type": "json_object"}, max_tokens=300)
    choice = body["choices"][0]
    assert choice["finish_reason"] == "length" or isinstance(json.loads(choice["message"]["content"]), dict)


def test_what_must_be_approved_is_not_offered_in_chat(yard: Yard) -> None:
    body = ask(yard, [{"type": "mcp", "server_label": "asking", "allowed_tools": ["get_weather", "add"]}])
    assert all(call["server"] != "asking" or call["is_error"] for call in body.get("mcp", {}).get("calls", []))


def test_a_server_that_is_away_costs_its_own_tools_only(yard: Yard) -> None:
    body = ask(yard, [{"type": "mcp", "server_label": "broken"}, WEATHER])
    assert "21 degrees" in body["choices"][0]["message"]["content"]


def test_states_and_tools_are_shown(yard: Yard) -> None:
    states = {one["label"]: one for one in httpx.get(f"{yard.url}/v1/mcp/servers").json()["data"]}
    assert states["broken"]["words"]
    assert states["trial"]["num_tools"] > 5
    tools = {one["name"] for one in httpx.get(f"{yard.url}/v1/mcp/tools", timeout=60).json()["data"]}
    assert {"trial__get_weather", "web__add"} <= tools
    resources = httpx.get(f"{yard.url}/v1/mcp/resources", timeout=60).json()["data"]
    assert {"trial", "web"} <= {one["server"] for one in resources}


MEMO = {"type": "resource", "server_label": "trial", "uri": "memo://today"}


def test_a_resource_is_attached_by_its_uri(yard: Yard) -> None:
    def num_tokens(*parts: dict[str, Any]) -> int:
        messages = [{"role": "user", "content": [{"type": "text", "text": "Read this: "}, *parts]}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 1, "tool_choice": "none"}
        response = httpx.post(f"{yard.url}/v1/chat/completions", json=body, timeout=60)
        assert response.status_code == 200, response.text
        found: int = response.json()["usage"]["prompt_tokens"]
        return found

    written = {"type": "text", "text": "\n[memo://today]\nBuy milk.\n"}
    assert num_tokens(MEMO) == num_tokens(written)
    assert num_tokens(MEMO, MEMO) == num_tokens(written, written)


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({**MEMO, "server_label": "nowhere"}, "messages.0.content.0.server_label"),
        ({**MEMO, "uri": None}, "messages.0.content.0.uri"),
        ({**MEMO, "uri": "memo://nowhere"}, "messages.0.content.0.uri"),
    ],
)
def test_resources_that_are_not_there_are_refused_by_name(yard: Yard, part: dict[str, Any], param: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": [part]}]}
    response = httpx.post(f"{yard.url}/v1/chat/completions", json=body, timeout=60)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


# Messages.

TOOLSET = {
    "type": "mcp_toolset",
    "mcp_server_name": "trial",
    "default_config": {"enabled": False},
    "configs": {"get_weather": {"enabled": True}},
}


@pytest.fixture(scope="module")
def claude(yard: Yard) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=yard.url, api_key="none", max_retries=0) as client:
        yield client


def message(**fields: Any) -> dict[str, Any]:
    servers = [{"type": "url", "name": "trial", "url": "mcp://trial"}]
    return {"model": MODEL, "max_tokens": 200, "messages": ASK, "mcp_servers": servers, "tools": [TOOLSET], **fields}


def test_messages_show_calls_as_blocks(claude: anthropic.Anthropic) -> None:
    whole = claude.beta.messages.create(**message(), betas=["mcp-client-2025-11-20"])
    kinds = [block.type for block in whole.content]
    assert kinds == ["mcp_tool_use", "mcp_tool_result", "text"]
    use, result, text = whole.content
    assert (use.server_name, use.name, use.input) == ("trial", "get_weather", {"city": "Paris"})  # type: ignore[union-attr]
    assert result.tool_use_id == use.id  # type: ignore[union-attr]
    assert result.content[0].text == GIVEN  # type: ignore[union-attr, index]
    assert "21 degrees" in text.text  # type: ignore[union-attr]
    assert whole.stop_reason == "end_turn"
    with claude.beta.messages.stream(**message()) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == kinds
    assert final.content[2].text == text.text  # type: ignore[union-attr]
    back = [*ASK, {"role": "assistant", "content": [block.model_dump() for block in whole.content]}]
    again = claude.beta.messages.create(**message(messages=[*back, {"role": "user", "content": "Thanks!"}]))
    assert again.content


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mcp_servers": [{"type": "url", "name": "trial", "url": "http://10.0.0.1/"}]}, "mcp_servers.0.url"),
        (
            {"mcp_servers": [{"type": "url", "name": "trial", "authorization_token": "x"}]},
            "mcp_servers.0.authorization_token",
        ),
        ({"mcp_servers": [{"type": "url", "name": "nowhere"}]}, "mcp_servers.0.name"),
        ({"tools": [{**TOOLSET, "mcp_server_name": "nowhere"}]}, "tools.0.mcp_server_name"),
        (
            {"mcp_servers": [{"name": "trial", "tool_configuration": {"allowed_tools": [{"name": "add"}]}}]},
            "mcp_servers.0.tool_configuration.allowed_tools",
        ),
        (
            {"mcp_servers": [{"name": "trial", "tool_configuration": {"enabled": "no"}}]},
            "mcp_servers.0.tool_configuration.enabled",
        ),
    ],
)
def test_messages_refuse_what_is_not_ours(claude: anthropic.Anthropic, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.beta.messages.create(**message(**fields))
    assert param in str(caught.value)


# Responses.

RESPONSES_TOOL = {"type": "mcp", "server_label": "trial", "allowed_tools": ["get_weather"], "require_approval": "never"}
ASKING_TOOL = {**RESPONSES_TOOL, "server_label": "asking"}
QUESTION = ASK[0]["content"]
KNOWN_EVENTS = get_args(get_args(ResponseStreamEvent)[0])


def test_responses_have_the_whole_set_of_items_and_events(sdk: openai.OpenAI) -> None:
    whole = sdk.responses.create(model=MODEL, input=QUESTION, tools=[RESPONSES_TOOL])  # type: ignore[list-item]
    assert [item.type for item in whole.output] == ["mcp_list_tools", "mcp_call", "message"]
    listed, call, _ = whole.output
    assert [tool.name for tool in listed.tools] == ["get_weather"]  # type: ignore[union-attr]
    assert (call.server_label, call.name, call.output, call.error) == ("trial", "get_weather", GIVEN, None)  # type: ignore[union-attr]
    assert json.loads(call.arguments) == {"city": "Paris"}  # type: ignore[union-attr]
    assert "21 degrees" in whole.output_text
    events = list(sdk.responses.create(model=MODEL, input=QUESTION, tools=[RESPONSES_TOOL], stream=True))  # type: ignore[list-item]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    for kind in (
        "response.mcp_list_tools.in_progress",
        "response.mcp_list_tools.completed",
        "response.mcp_call.in_progress",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.completed",
    ):
        assert kinds.count(kind) == 1
    assert all(isinstance(event, KNOWN_EVENTS) and not event.model_extra for event in events)
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 3
    assert events[-1].response.output_text == whole.output_text  # type: ignore[union-attr]


def test_a_later_response_knows_what_ran(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model=MODEL, input=QUESTION, tools=[RESPONSES_TOOL])  # type: ignore[list-item]
    second = sdk.responses.create(
        model=MODEL, input="What is the weather in Rome?", tools=[RESPONSES_TOOL], previous_response_id=first.id
    )  # type: ignore[call-overload]
    assert "mcp_list_tools" not in [item.type for item in second.output], "told once in a conversation"
    counted = sdk.responses.input_tokens.count(model=MODEL, input="Hi", previous_response_id=first.id)
    assert counted.input_tokens > sdk.responses.input_tokens.count(model=MODEL, input="Hi").input_tokens + 20


@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize("approve", [True, False])
def test_a_person_is_asked(sdk: openai.OpenAI, approve: bool, replayed: bool) -> None:
    first = sdk.responses.create(model=MODEL, input=QUESTION, tools=[ASKING_TOOL])  # type: ignore[list-item]
    request = first.output[-1]
    assert request.type == "mcp_approval_request"
    assert (request.server_label, request.name) == ("asking", "get_weather")
    assert not [item for item in first.output if item.type == "mcp_call"]
    answer = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": approve}
    before = [{"role": "user", "content": QUESTION}, *(item.model_dump() for item in first.output)]
    given: dict[str, Any] = (
        {"input": [*before, answer]} if replayed else {"input": [answer], "previous_response_id": first.id}
    )
    second = sdk.responses.create(model=MODEL, tools=[ASKING_TOOL], **given)  # type: ignore[list-item]
    (call,) = [item for item in second.output if item.type == "mcp_call"]
    assert call.approval_request_id == request.id
    if approve:
        assert (call.output, call.status) == (GIVEN, "completed")
        assert "21 degrees" in second.output_text
    else:
        assert (call.output, call.status) == (None, "failed")
        assert "did not allow" in str(call.error)


def test_numbers_of_any_size_reach_a_tool(sdk: openai.OpenAI) -> None:
    asked = {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "asking", "name": "get_weather"}
    answer = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    arguments = '{"city": "Paris", "days": 18446744073709551616}'
    given = [{"role": "user", "content": QUESTION}, {**asked, "arguments": arguments}, answer]
    response = sdk.responses.create(model=MODEL, tools=[ASKING_TOOL], input=given)  # type: ignore[arg-type, list-item]
    (call,) = [item for item in response.output if item.type == "mcp_call"]
    assert json.loads(call.arguments)["days"] == 1 << 64
    assert response.status == "completed"


def test_a_choice_can_name_a_server_and_its_tool(sdk: openai.OpenAI) -> None:
    tool = {**RESPONSES_TOOL, "allowed_tools": ["get_weather", "add"]}
    choice = {"type": "mcp", "server_label": "trial", "name": "get_weather"}
    forced = sdk.responses.create(model=MODEL, input="Hello!", tools=[tool], tool_choice=choice)  # type: ignore[call-overload]
    assert "mcp_call" in [item.type for item in forced.output]
    none = sdk.responses.create(model=MODEL, input=QUESTION, tools=[tool], tool_choice="none")  # type: ignore[list-item]
    assert [item.type for item in none.output] == ["message"]


def test_calls_have_a_limit_and_mixed_ones_are_returned(sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(
        model=MODEL,
        input=QUESTION,
        tools=[RESPONSES_TOOL, {"type": "function", "name": "mine", "parameters": {"type": "object"}}],  # type: ignore[list-item]
        max_tool_calls=1,
    )
    assert response.status == "completed"
    assert response.max_tool_calls == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "mcp", "server_label": "nowhere"}]}, "tools.0.server_label"),
        ({"tools": [{**RESPONSES_TOOL, "server_url": "http://127.0.0.1/"}]}, "tools.0.server_url"),
        ({"tools": [{**RESPONSES_TOOL, "authorization": "secret"}]}, "tools.0.authorization"),
        ({"tools": [RESPONSES_TOOL], "tool_choice": {"type": "mcp", "server_label": "web"}}, "tool_choice"),
        (
            {"input": [{"type": "mcp_approval_response", "approval_request_id": "mcpr_none", "approve": True}]},
            "input.0.approval_request_id",
        ),
    ],
)
def test_responses_refuse_by_name(sdk: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(**{"model": MODEL, "input": QUESTION, **fields})
    assert caught.value.param == param
    assert "secret" not in str(caught.value)
