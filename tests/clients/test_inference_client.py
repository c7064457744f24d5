"""huggingface_hub's InferenceClient, unmodified, against a real server: chat completions."""

from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from yard import Yard

pytestmark = pytest.mark.slow

MODEL = "tokenyard-demo"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def client(server: Yard) -> Iterator[InferenceClient]:
    with InferenceClient(base_url=server.url, api_key="none", timeout=60) as client:
        yield client


def ask(client: InferenceClient, messages: list[Any] = QUESTION, **fields: Any) -> Any:
    return client.chat_completion(messages, model=MODEL, temperature=0, max_tokens=100, **fields)


def test_an_answer_whole_and_streamed(client: InferenceClient) -> None:
    whole = ask(client)
    text = whole.choices[0].message.content
    assert "Paris" in text
    assert whole.usage.completion_tokens > 1
    chunks = list(ask(client, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text


def test_a_tool_is_called_and_its_result_quoted(client: InferenceClient) -> None:
    question = {"role": "user", "content": "What is the weather in Paris?"}
    message = ask(client, [question], tools=[WEATHER], tool_choice="auto").choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Paris"}')
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"}
    answer = ask(client, [question, {"role": "assistant", "tool_calls": [call]}, result], tools=[WEATHER])
    assert "sunny" in answer.choices[0].message.content


def test_a_schema_for_the_answer(client: InferenceClient) -> None:
    properties = {"big": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": ["big"], "additionalProperties": False}
    response_format = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    answer = ask(client, response_format=response_format).choices[0].message.content
    assert "".join(answer.split()) in ('{"big":true}', '{"big":false}')
