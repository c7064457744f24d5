"""LangChain's ChatOpenAI, unmodified, against a real server."""

from collections.abc import Iterator
from typing import Any, Literal

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from yard import Yard

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of France?"


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return "sunny, 21 degrees"


class City(BaseModel):
    """A city of the question."""

    name: Literal["Paris", "London"]
    capital: bool


@pytest.fixture(scope="module")
def model(server: Yard) -> Iterator[ChatOpenAI]:
    with httpx.Client(timeout=60) as client:
        settings: dict[str, Any] = {"model": "tokenyard-demo", "api_key": "none", "temperature": 0, "max_retries": 0}
        yield ChatOpenAI(base_url=f"{server.url}/v1", http_client=client, **settings)


def test_invoke_and_stream(model: ChatOpenAI) -> None:
    answer = model.invoke(QUESTION)
    assert "Paris" in answer.text
    assert answer.usage_metadata is not None
    chunks = list(model.stream(QUESTION))
    assert len(chunks) > 2
    assert "".join(chunk.text for chunk in chunks) == answer.text


def test_a_bound_tool_is_called_and_its_result_quoted(model: ChatOpenAI) -> None:
    calling = model.bind_tools([get_weather])
    question = HumanMessage("What is the weather in Paris?")
    message = calling.invoke([question])
    assert isinstance(message, AIMessage)
    (call,) = message.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert "sunny" in calling.invoke([question, message, result]).text


def test_a_bound_tool_is_called_in_a_stream(model: ChatOpenAI) -> None:
    first, *rest = model.bind_tools([get_weather]).stream("What is the weather in London?")
    whole: Any = first
    for chunk in rest:
        whole += chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("get_weather", {"city": "London"})]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model: ChatOpenAI, method: Literal["json_schema", "function_calling"]) -> None:
    assert isinstance(model.with_structured_output(City, method=method).invoke(QUESTION), City)
