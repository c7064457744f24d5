"""The anthropic SDK, unmodified, against a real server: whole and streamed, sync and async, tools, counts, errors."""

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message, MessageParam, RawMessageStreamEvent, ToolParam
from claude_code import HEADERS, PATH, REQUEST
from front import typed_events
from pydantic import BaseModel
from strict import unknown_fields, validated
from yard import Yard

pytestmark = pytest.mark.slow

MODEL = "tokenyard-demo"
QUESTION: list[MessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def sdk(server: Yard) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def ask(sdk: Anthropic, messages: list[MessageParam] = QUESTION, **fields: Any) -> Message:
    """A whole answer; validated."""
    message: Message = sdk.messages.create(model=MODEL, messages=messages, max_tokens=200, **fields)
    assert not list(unknown_fields(message))
    return message


def text_of(message: Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


def test_a_message(sdk: Anthropic) -> None:
    message = ask(sdk, system="You are a helpful assistant.")
    assert "Paris" in text_of(message)
    assert (message.role, message.stop_reason, message.model) == ("assistant", "end_turn", MODEL)
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 10
    assert message._request_id is not None
    assert message._request_id.startswith("req_")


def test_a_stream_of_events(sdk: Anthropic) -> None:
    whole = ask(sdk)
    with sdk.messages.create(model=MODEL, messages=QUESTION, max_tokens=200, stream=True) as stream:
        events = list(stream)
    assert not [unknown for event in events for unknown in unknown_fields(event)]
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    texts = [
        event.delta.text for event in events if event.type == "content_block_delta" and event.delta.type == "text_delta"
    ]
    assert "".join(texts) == text_of(whole)


def test_the_streaming_helper(sdk: Anthropic) -> None:
    with sdk.messages.stream(model=MODEL, messages=QUESTION, max_tokens=200) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == text_of(message) == text_of(ask(sdk))
    assert message.usage.output_tokens > 1
    assert message.stop_reason == "end_turn"


def test_the_async_client(server: Yard, sdk: Anthropic) -> None:
    async def run() -> tuple[str, str]:
        async with AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client:
            whole = await client.messages.create(model=MODEL, messages=QUESTION, max_tokens=200)
            async with client.messages.stream(model=MODEL, messages=QUESTION, max_tokens=200) as stream:
                return text_of(whole), "".join([text async for text in stream.text_stream])

    assert asyncio.run(run()) == (text_of(ask(sdk)),) * 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_quoted(sdk: Anthropic, stream: bool) -> None:
    messages: list[MessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
    wish: dict[str, Any] = {"model": MODEL, "max_tokens": 200, "tools": [WEATHER]}
    if stream:
        with sdk.messages.stream(messages=messages, **wish) as events:
            message: Message = events.get_final_message()
    else:
        message = sdk.messages.create(messages=messages, **wish)
    assert message.stop_reason == "tool_use"
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    result: MessageParam = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny, 21 degrees"}],
    }
    answer = ask(sdk, [*messages, message.to_param(), result], tools=[WEATHER])
    assert "sunny" in text_of(answer)
    assert answer.stop_reason == "end_turn"


def test_parsed_output(sdk: Anthropic) -> None:
    class City(BaseModel):
        name: str
        big: bool

    message = sdk.messages.parse(model=MODEL, messages=QUESTION, max_tokens=200, output_format=City)
    assert isinstance(message.parsed_output, City)


def test_a_stop_sequence_and_the_limit(sdk: Anthropic) -> None:
    words = text_of(ask(sdk)).split()
    stopped = ask(sdk, stop_sequences=[words[2]])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", words[2])
    assert text_of(stopped).split() == words[:2]
    cut = sdk.messages.create(model=MODEL, messages=QUESTION, max_tokens=2)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)


def test_a_prefill_is_gone_on_with(sdk: Anthropic) -> None:
    whole = text_of(ask(sdk))
    begin = " ".join(whole.split()[:2])
    assert begin + text_of(ask(sdk, [*QUESTION, {"role": "assistant", "content": begin}])) == whole


def test_thinking(sdk: Anthropic) -> None:
    message = ask(sdk, thinking={"type": "enabled", "budget_tokens": 1024})
    assert message.content[0].type == "thinking"
    assert message.usage.output_tokens_details is not None
    assert message.usage.output_tokens_details.thinking_tokens > 0


def test_tokens_are_counted(sdk: Anthropic) -> None:
    count = sdk.messages.count_tokens(model=MODEL, messages=QUESTION, tools=[WEATHER])
    usage = ask(sdk, tools=[WEATHER]).usage
    assert count.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_models(sdk: Anthropic) -> None:
    (model,) = sdk.models.list()
    assert not list(unknown_fields(model))
    assert model.id == MODEL
    assert sdk.models.retrieve(MODEL) == model


def test_errors_have_the_sdks_own_classes(sdk: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        sdk.messages.create(model="none", messages=QUESTION, max_tokens=5)
    assert missing.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match=r"messages.0.content.0.type") as refused:
        sdk.messages.create(
            model=MODEL,
            max_tokens=5,
            messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}],
        )
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        sdk.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "word " * 20_000}])


def test_claude_codes_first_request(server: Yard) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        response = client.post(PATH, headers=HEADERS, json={**REQUEST, "model": MODEL})
    assert response.status_code == 200, response.text
    events = [event for event in typed_events(response) if event["type"] != "ping"]
    for event in events:
        validated(RawMessageStreamEvent, event)
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    assert events[-2]["usage"]["output_tokens"] > 1
