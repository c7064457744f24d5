"""Calls of tools on a real server, through OpenAI's own client: what is forced comes, and its arguments fit."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from yard import Yard

pytestmark = pytest.mark.slow

MODEL = "tokenyard-demo"
ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "pattern": "^[A-Z][a-z]{1,12}$"}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
SCHEMAS = {"add": ADD, "get_weather": WEATHER}
ADDITION: list[Any] = [{"role": "user", "content": "Please add 3 and 4."}]
GREETING: list[Any] = [{"role": "user", "content": "Hello!"}]


def tools(**more: Any) -> list[Any]:
    described = {"add": "Add two numbers.", "get_weather": "Tell the weather in a city."}
    return [
        {"type": "function", "function": {"name": name, "description": words, "parameters": SCHEMAS[name], **more}}
        for name, words in described.items()
    ]


def named(name: str) -> Any:
    return {"type": "function", "function": {"name": name}}


@pytest.fixture(scope="module")
def sdk(server: Yard) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(sdk: openai.OpenAI, messages: list[Any], stream: bool = False, **fields: Any) -> tuple[Any, str | None]:
    """The message and its finish_reason, however they came."""
    fields = {"model": MODEL, "messages": messages, "max_tokens": 200, **fields}
    if not stream:
        choice = sdk.chat.completions.create(**fields).choices[0]
        return choice.message, choice.finish_reason
    with sdk.chat.completions.stream(**fields) as events:
        choice = events.get_final_completion().choices[0]
    return choice.message, choice.finish_reason


def calls_of(message: Any) -> list[tuple[str, Any]]:
    """Name and arguments of each call; every one fits its schema."""
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]
    for name, arguments in calls:
        jsonschema.validate(arguments, SCHEMAS[name])
    return calls


@pytest.mark.parametrize("stream", [False, True])
def test_the_model_calls_of_its_own_accord(sdk: openai.OpenAI, stream: bool) -> None:
    message, reason = ask(sdk, ADDITION, stream, tools=tools())
    assert calls_of(message) == [("add", {"a": 3, "b": 4})]
    assert (reason, message.content or None) == ("tool_calls", None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 3}])
def test_a_call_is_required(sdk: openai.OpenAI, stream: bool, sampling: dict[str, Any]) -> None:
    message, reason = ask(sdk, GREETING, stream, tools=tools(), tool_choice="required", **sampling)
    assert calls_of(message)
    assert (reason, message.content or None) == ("tool_calls", None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["add", "get_weather"])
def test_a_named_tool_is_called_once(sdk: openai.OpenAI, name: str, stream: bool) -> None:
    message, reason = ask(sdk, ADDITION, stream, tools=tools(), tool_choice=named(name))
    assert [called for called, _ in calls_of(message)] == [name]
    assert reason == "tool_calls"


def test_strict_tools_are_called_rightly(sdk: openai.OpenAI) -> None:
    message, reason = ask(sdk, ADDITION, tools=tools(strict=True))
    assert calls_of(message) == [("add", {"a": 3, "b": 4})]
    assert reason == "tool_calls"
    for seed in range(3):
        message, reason = ask(sdk, ADDITION, tools=tools(strict=True), temperature=1.5, seed=seed)
        assert calls_of(message) or message.content
    message, reason = ask(sdk, GREETING, tools=tools(strict=True))
    assert (message.tool_calls, reason) == (None, "stop")
    assert message.content


def test_no_call_is_made_where_none_may_be(sdk: openai.OpenAI) -> None:
    message, reason = ask(sdk, ADDITION, tools=tools(), tool_choice="none")
    assert (message.tool_calls, reason) == (None, "stop")


def test_only_allowed_tools_are_called(sdk: openai.OpenAI) -> None:
    allowed = {"mode": "required", "tools": [named("get_weather")]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    message, _ = ask(sdk, ADDITION, tools=tools(), tool_choice=choice)
    assert {name for name, _ in calls_of(message)} == {"get_weather"}


def test_one_call_at_a_time(sdk: openai.OpenAI) -> None:
    for choice in ("auto", "required"):
        message, _ = ask(sdk, ADDITION, tools=tools(), tool_choice=choice, parallel_tool_calls=False, seed=1)
        assert len(calls_of(message)) == 1


def test_an_answer_in_form_or_a_call(sdk: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"say": {"enum": ["hello"]}}, "required": ["say"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    message, reason = ask(sdk, GREETING, tools=tools(), response_format=form)
    assert calls_of(message) or json.loads(message.content) == {"say": "hello"}
    assert reason == ("tool_calls" if message.tool_calls else "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_a_thought_comes_before_a_forced_call(sdk: openai.OpenAI, stream: bool) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": True}}
    message, reason = ask(sdk, ADDITION, stream, tools=tools(), tool_choice="required", extra_body=extra)
    assert calls_of(message)
    assert message.reasoning_content
    assert (reason, message.content or None) == ("tool_calls", None)


def test_a_thought_comes_before_an_answer_in_form(sdk: openai.OpenAI) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": True}, "guided_choice": ["yes", "no"]}
    message, _ = ask(sdk, GREETING, extra_body=extra)
    assert message.content in ("yes", "no")
    assert message.reasoning_content


def test_the_results_of_a_call_are_read(sdk: openai.OpenAI) -> None:
    message, _ = ask(sdk, ADDITION, tools=tools())
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "7"}
    answer, reason = ask(sdk, [*ADDITION, message, result], tools=tools())
    assert "7" in answer.content
    assert reason == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": named("sub"), "tools": tools()}, "tool_choice.function.name"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"not": {}}}},
                ]
            },
            "tools.0.function.parameters.not",
        ),
    ],
)
def test_what_cannot_be_forced_is_refused(sdk: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(sdk, GREETING, **fields)
    assert caught.value.param == param
