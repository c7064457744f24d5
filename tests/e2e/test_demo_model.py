"""What the bundled model must be able to do, on its shipped weights, greedily, through the real server.

The prompts have wide margins (docs/demo-model.md, Pitfalls). After retraining, each is to be looked at again.
"""

import json
from typing import Any

import openai
import pytest
from yard import Yard

pytestmark = pytest.mark.slow

MODEL = "tokenyard-demo"
Message = dict[str, Any]


def tool(name: str, description: str, **kinds: str) -> dict[str, Any]:
    properties = {param: {"type": kind} for param, kind in kinds.items()}
    schema = {"type": "object", "properties": properties, "required": list(kinds)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


WEATHER = tool("get_weather", "Get the weather in a city.", city="string")
ADD = tool("add", "Add two numbers.", a="number", b="number")


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def sdk(server: Yard) -> Any:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(sdk: Any, *messages: Message, **fields: Any) -> Any:
    """The greedy answer's only choice."""
    answer = sdk.chat.completions.create(model=MODEL, messages=list(messages), temperature=0, **fields)
    return answer.choices[0]


def called(choice: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of its calls; nothing else was said."""
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    return [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]


def test_it_calls_the_tool_that_fits(sdk: Any) -> None:
    tools = [WEATHER, ADD]
    assert called(ask(sdk, user("What is the weather in Paris?"), tools=tools)) == [("get_weather", {"city": "Paris"})]
    assert called(ask(sdk, user("What is 12 plus 30?"), tools=tools)) == [("add", {"a": 12, "b": 30})]


def test_it_calls_a_tool_in_a_stream(sdk: Any) -> None:
    with sdk.chat.completions.create(
        model=MODEL, messages=[user("What is the weather in London?")], tools=[WEATHER], temperature=0, stream=True
    ) as stream:
        choices = [chunk.choices[0] for chunk in stream]
    deltas = [call for choice in choices for call in choice.delta.tool_calls or []]
    assert [call.function.name for call in deltas if call.function.name] == ["get_weather"]
    assert json.loads("".join(call.function.arguments or "" for call in deltas)) == {"city": "London"}
    assert {call.index for call in deltas} == {0}
    assert choices[-1].finish_reason == "tool_calls"


def test_it_calls_twice_at_once(sdk: Any) -> None:
    choice = ask(sdk, user("What is the weather in Paris and in Tokyo?"), tools=[WEATHER])
    assert called(choice) == [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Tokyo"})]
    assert len({call.id for call in choice.message.tool_calls}) == 2


def test_it_quotes_a_tools_result(sdk: Any) -> None:
    question = user("What is the weather in Paris?")
    (call,) = ask(sdk, question, tools=[WEATHER]).message.tool_calls
    messages = [
        question,
        {"role": "assistant", "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"},
    ]
    choice = ask(sdk, *messages, tools=[WEATHER])
    assert (choice.message.content, choice.finish_reason) == ("Weather in Paris: sunny, 21 degrees", "stop")


def test_it_refuses_when_no_tool_fits(sdk: Any) -> None:
    choice = ask(sdk, user("Set a timer for 5 minutes."), tools=[WEATHER])
    assert (choice.message.content, choice.message.tool_calls) == ("Sorry, I have no tool for that.", None)


def test_it_remembers_a_name_over_other_turns(sdk: Any) -> None:
    messages = [
        user("My name is Anna."),
        assistant("Nice to meet you, Anna!"),
        user("What is the capital of France?"),
        assistant("The capital of France is Paris."),
        user("What is my name?"),
    ]
    assert ask(sdk, *messages).message.content == "Your name is Anna."


def test_it_bears_the_name_that_the_system_prompt_gives(sdk: Any) -> None:
    for system in ("Your name is Max.", "You are Max, a helpful assistant."):
        choice = ask(sdk, {"role": "system", "content": system}, user("What is your name?"))
        assert choice.message.content == "I am Max."


def test_it_answers_in_json(sdk: Any) -> None:
    choice = ask(sdk, user("Give me a JSON object with name Tom and age 7."))
    assert json.loads(choice.message.content) == {"name": "Tom", "age": 7}


def test_it_counts_and_stops(sdk: Any) -> None:
    choice = ask(sdk, user("Count from 1 to 20."))
    assert choice.message.content == ", ".join(map(str, range(1, 21)))
    assert choice.finish_reason == "stop"
