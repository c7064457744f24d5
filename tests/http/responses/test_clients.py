"""The official clients, unmodified, against a real pool on the bundled model: the openai SDK, and openai-agents."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from agents import set_tracing_disabled as disable_agents_tracing
from pydantic import BaseModel, Field
from shapes import unknown_to_openai
from yard import Yard

pytestmark = pytest.mark.slow

MODEL = "tokenyard-demo"
QUESTION = "What is the capital of France?"
ADD: Any = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
    },
    "strict": False,
}


@pytest.fixture(scope="module")
def sdk(server: Yard) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_whole_and_streamed_answers_are_the_same(sdk: openai.OpenAI) -> None:
    whole = sdk.responses.create(model=MODEL, input=QUESTION)
    assert "Paris" in whole.output_text
    assert whole.status == "completed"
    with sdk.responses.stream(model=MODEL, input=QUESTION) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert len(deltas) > 3


class Capital(BaseModel):
    city: str = Field(max_length=12)
    kind: Literal["capital", "town"]


def test_answers_are_parsed_into_models(sdk: openai.OpenAI) -> None:
    parsed = sdk.responses.parse(model=MODEL, input=QUESTION, text_format=Capital, max_output_tokens=100)
    assert isinstance(parsed.output_parsed, Capital)
    with sdk.responses.stream(model=MODEL, input=QUESTION, text_format=Capital, max_output_tokens=100) as stream:
        assert stream.get_final_response().output_parsed == parsed.output_parsed


def test_a_function_is_called_and_its_result_quoted(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model=MODEL, input="What is 2 plus 3?", tools=[ADD])
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments.replace(" ", "")) == ("add", '{"a":2,"b":3}')
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
    answer = sdk.responses.create(model=MODEL, input=[output], previous_response_id=first.id, tools=[ADD])
    assert "5" in answer.output_text
    user = {"role": "user", "content": "What is 2 plus 3?"}
    replayed: Any = [user, *(item.to_dict() for item in first.output), output]
    assert sdk.responses.create(model=MODEL, input=replayed, tools=[ADD]).output_text == answer.output_text


@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "name": "add"}, {"type": "allowed_tools", "mode": "required", "tools": [ADD]}],
)
def test_calls_can_be_forced(sdk: openai.OpenAI, choice: Any) -> None:
    echo: Any = {**ADD, "name": "echo"}
    asked = {"tools": [echo, {**ADD, "strict": True}], "tool_choice": choice, "parallel_tool_calls": False}
    (call,) = sdk.responses.create(model=MODEL, input="Hello.", max_output_tokens=200, **asked).output
    assert call.type == "function_call"
    assert choice == "required" or call.name == "add"
    assert json.loads(call.arguments).keys() == {"a", "b"}


def test_arguments_stream(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model=MODEL, input="What is 2 plus 3?", tools=[ADD]) as stream:
        events = list(stream)
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert "".join(deltas) == done.arguments
    assert len(deltas) > 1


def test_thoughts_are_items_of_their_own(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=MODEL, input=QUESTION, reasoning={"effort": "low"})
    thought, message = answer.output
    assert thought.type == "reasoning"
    assert thought.content
    assert thought.content[0].text.strip()
    assert message.type == "message"
    assert "think>" not in answer.output_text
    assert answer.usage is not None
    assert 0 < answer.usage.output_tokens_details.reasoning_tokens < answer.usage.output_tokens


def test_conversations_go_on_by_id(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model=MODEL, input="My name is Anna.")
    second = sdk.responses.create(model=MODEL, input="What is my name?", previous_response_id=first.id)
    assert "Anna" in second.output_text
    assert second.previous_response_id == first.id


def test_kept_conversations(sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create(items=[{"type": "message", "role": "user", "content": "My name is Anna."}])
    first = sdk.responses.create(model=MODEL, input="What is my name?", conversation=conversation.id)
    assert first.conversation is not None
    assert first.conversation.id == conversation.id
    listed = list(sdk.conversations.items.list(conversation.id, order="asc"))
    assert [item.role for item in listed] == ["user", "user", "assistant"]  # type: ignore[union-attr]
    sdk.conversations.delete(conversation.id)
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.retrieve(conversation.id)


def test_background_polling_following_and_cancelling(sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model=MODEL, input=QUESTION, background=True)
    assert response.status == "queued"
    end = time.monotonic() + 30
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < end
        response = sdk.responses.retrieve(response.id)
    assert "Paris" in response.output_text
    stream = sdk.responses.create(model=MODEL, input=QUESTION, background=True, stream=True)
    events = list(stream)
    followed = sdk.responses.retrieve(events[0].response.id, stream=True, starting_after=5)  # type: ignore[union-attr]
    assert list(followed) == events[6:]
    endless = sdk.responses.create(model=MODEL, input=QUESTION, background=True, extra_body={"ignore_eos": True})
    assert sdk.responses.cancel(endless.id).status == "cancelled"
    assert sdk.responses.retrieve(endless.id).status == "cancelled"


def test_what_is_kept_is_listed_counted_and_deleted(sdk: openai.OpenAI) -> None:
    items: Any = [{"role": "user", "content": "Hello."}, {"role": "user", "content": QUESTION}]
    response = sdk.responses.create(model=MODEL, input=items)
    listed = list(sdk.responses.input_items.list(response.id, limit=1))
    assert [item.content[0].text for item in listed] == [QUESTION, "Hello."]  # type: ignore[union-attr]
    counted = sdk.responses.input_tokens.count(model=MODEL, input=items)
    assert response.usage is not None
    assert counted.input_tokens == response.usage.input_tokens
    sdk.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(response.id)


def test_errors_are_the_sdks_own(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model=MODEL, input=[{"role": "user", "content": [{"type": "input_image"}]}])  # type: ignore[list-item, typeddict-item]
    assert caught.value.param == "input.0.content.0.type"
    with pytest.raises(openai.NotFoundError):
        sdk.responses.create(model="nobody", input=QUESTION)


def test_real_streams_hold_nothing_that_the_types_do_not_know(sdk: openai.OpenAI) -> None:
    stream = sdk.responses.create(
        model=MODEL, input="What is 2 plus 3?", tools=[ADD], stream=True, reasoning={"effort": "low"}
    )
    known = {f"response.{name}" for name in ("store", "presence_penalty", "frequency_penalty")}
    for event in stream:
        assert unknown_to_openai(event.to_dict()) <= known


@pytest.mark.parametrize("api", ["responses", "chat completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_runs_its_tool(server: Yard, api: str, stream: bool) -> None:
    disable_agents_tracing(True)
    calls: list[tuple[float, float]] = []

    @function_tool
    def add(a: float, b: float) -> float:
        """Add two numbers."""
        calls.append((a, b))
        return a + b

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            kind = OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel
            agent = Agent(name="adder", model=kind(MODEL, client), tools=[add], model_settings=ModelSettings())
            if not stream:
                return str((await Runner.run(agent, "What is 2 plus 3?")).final_output)
            streamed = Runner.run_streamed(agent, "What is 2 plus 3?")
            async for _ in streamed.stream_events():
                pass
            return str(streamed.final_output)

    answer = asyncio.run(run())
    assert calls == [(2, 3)]
    assert "5" in answer
