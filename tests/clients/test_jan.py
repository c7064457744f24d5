"""Jan's calls to a custom provider, replayed: docs/jan.md.

Its bodies are those of the AI SDK's openai-compatible client, with the sliders of its model settings laid over them
(janhq/jan, web-app/src/lib/model-factory.ts and its neighbours).
"""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from front import CHAT, ask, post, request
from models import CARD
from scripted import ScriptedPool
from yard import Yard

from tokenyard.http.app import create_app
from tokenyard.http.keys import KeyRing
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool

MODEL = "tokenyard-demo"
ORIGINS = ["tauri://localhost", "http://tauri.localhost"]
"""Of its windows: on macOS and Linux, and on Windows."""
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer none", "Origin": ORIGINS[0]}
SLIDERS = {
    "temperature": 0, "top_k": 2, "top_p": 0.95, "repeat_penalty": 1.1, "max_output_tokens": 24, "ctx_len": 8192,
    "presence_penalty": 0.7, "frequency_penalty": 0.7, "stream": True,
}  # fmt: skip
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
USAGE = {"include_usage": True}
ASK = {"role": "user", "content": "What is the weather in Paris?"}


def chat(server: Yard, messages: list[dict[str, Any]], **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": messages, **fields}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=HEADERS, timeout=60)


def deltas(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    lines = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    assert chunks[-1]["usage"]["total_tokens"], "it shows tokens a second by it"
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def text(response: httpx.Response) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(response))


@pytest.mark.parametrize("origin", ORIGINS)
def test_its_window_may_call(origin: str) -> None:
    asked = "authorization,content-type,x-api-key,http-referer,x-title"
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    answer = ask(ScriptedPool(CARD), "OPTIONS", "/v1/chat/completions", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] in ("*", origin)
    allowed = answer.headers["access-control-allow-headers"]
    assert allowed == "*" or set(asked.split(",")) <= {one.strip().lower() for one in allowed.split(",")}


def test_refresh_lists_the_models() -> None:
    """It sends the key twice, and a content type without content."""
    headers = {
        "Content-Type": "application/json",
        "Origin": ORIGINS[0],
        "HTTP-Referer": "https://jan.ai",
        "X-Title": "Jan",
    }
    pool = ScriptedPool(CARD)
    app = create_app(cast(Pool, pool), FrontOptions(run_dir=Path("/nowhere"), store="off", api_keys=KeyRing(["k"])))
    keys = {"x-api-key": "k", "Authorization": "Bearer k"}
    answer = asyncio.run(request(app, "GET", "/v1/models", headers=headers | keys))
    assert [one["id"] for one in answer.json()["data"]] == [CARD.names[0]]
    refused = asyncio.run(request(app, "GET", "/v1/models", headers=headers))
    assert refused.status_code == 401  # which it shows as "API key is required or invalid"
    assert refused.headers["access-control-allow-origin"]


@pytest.mark.slow
def test_a_chat_with_its_sliders(server: Yard) -> None:
    answer = chat(server, [{"role": "user", "content": "Count from 1 to 50."}], stream_options=USAGE, **SLIDERS)
    assert text(answer)
    body = json.loads(answer.text.split("data: ")[-2])
    assert body["usage"]["completion_tokens"] <= SLIDERS["max_output_tokens"]


@pytest.mark.slow
def test_its_names_mean_ours(server: Yard) -> None:
    count = [{"role": "user", "content": "Count from 1 to 30."}]
    plain = chat(server, count, temperature=0, max_tokens=24).json()
    mine = chat(server, count, temperature=0, repeat_penalty=9.0, max_output_tokens=24).json()
    ours = chat(server, count, temperature=0, repetition_penalty=9.0, max_tokens=24).json()
    assert mine["choices"] == ours["choices"] != plain["choices"]
    stopped = chat(server, count, temperature=0, stop_sequences=["3"]).json()
    assert "3" not in stopped["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repetition_penalty"),
        ({"max_tokens": 5, "max_output_tokens": 6}, "max_output_tokens"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"mirostat": 2}, "mirostat"),
    ],
)
def test_what_contradicts_or_is_not_done_is_named(fields: dict[str, Any], param: str) -> None:
    answer, _ = post(CHAT, {"model": CARD.names[0], "messages": [ASK], **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    neutral = {"repeat_penalty": 1.1, "repetition_penalty": 1.1, "mirostat": 0, "ctx_len": 8192}
    assert post(CHAT, {"model": CARD.names[0], "messages": [ASK], **neutral})[0].status_code == 200


@pytest.mark.slow
def test_a_tool_of_its_own_is_called_and_its_result_comes_back(server: Yard) -> None:
    """Its own MCP servers: a first stream ends in the call, the next request brings result and thoughts along."""
    tools = {"tools": [WEATHER], "tool_choice": "auto", "stream": True, "stream_options": USAGE, "temperature": 0}
    called = [call for delta in deltas(chat(server, [ASK], **tools)) for call in delta.get("tool_calls") or ()]
    name, call_id = called[0]["function"]["name"], called[0]["id"]
    arguments = "".join(call["function"].get("arguments") or "" for call in called)
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Paris"})
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    back = [
        ASK,
        {"role": "assistant", "content": "", "reasoning_content": "I ask for it.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": "It is sunny in Paris, 21 degrees."},
    ]
    assert "21 degrees" in text(chat(server, back, **tools))


@pytest.mark.slow
def test_an_answer_that_was_stopped_is_continued(server: Yard) -> None:
    count = {"role": "user", "content": "Count from 1 to 20."}
    whole = text(chat(server, [count], temperature=0, stream=True, stream_options=USAGE))
    begun = whole[: len(whole) // 2]
    rest = text(
        chat(server, [count, {"role": "assistant", "content": begun}], temperature=0, stream=True, stream_options=USAGE)
    )
    assert rest
    assert not rest.startswith(begun[:8])


@pytest.mark.slow
def test_a_thread_gets_a_title(server: Yard) -> None:
    asked = 'Summarize in a 10-word Title. Give the title only. Here is the message: "What is the weather in Paris?"'
    answer = chat(server, [{"role": "user", "content": asked}])
    assert answer.json()["choices"][0]["message"]["content"].strip()
