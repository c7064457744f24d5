"""What Codex CLI sends (codex-rs at 0.142 to 0.145): its first request and the one after a tool's run are answered.

Shapes are from its sources (codex-api's ResponsesApiRequest, the tools crate's ToolSpec, protocol's ResponseItem);
instructions and tools are shortened.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from desk import Desk
from front import says

from tokenyard.http.seals import SEAL

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": "exec_command",
        "description": "Runs a command in a PTY.",
        "strict": False,
        "parameters": {
            "type": "object",
            "properties": {"cmd": {"type": "string"}, "yield_time_ms": {"type": "number"}},
            "required": ["cmd"],
            "additionalProperties": False,
        },
    },
    {
        "type": "custom",
        "name": "apply_patch",
        "description": "Use the `apply_patch` tool to edit files.",
        "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch" LF'},
    },
    {"type": "web_search", "external_web_access": False},
    {"type": "tool_search", "execution": "client", "description": "Finds tools.", "parameters": {"type": "object"}},
    {"type": "image_generation", "output_format": "png"},
    {
        "type": "namespace",
        "name": "mcp__files",
        "description": "Tools in the mcp__files namespace.",
        "tools": [
            {
                "type": "function",
                "name": "read_file",
                "description": "Reads a file.",
                "strict": False,
                "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
            }
        ],
    },
]


def text(role: str, words: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": words}]}


BODY: dict[str, Any] = {
    "model": "demo",
    "instructions": "You are Codex, a coding agent based on GPT-5.",
    "input": [
        text("developer", "<permissions instructions>\nnever ask\n</permissions instructions>"),
        text("user", "<environment_context>\n  <cwd>/work</cwd>\n</environment_context>"),
        text("user", "What is in notes.txt?"),
    ],
    "tools": TOOLS,
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199c2d4-0000-7000-8000-000000000001",
    "text": {"verbosity": "medium"},
    "client_metadata": {"x-codex-installation-id": "9c1a2b3c-0000-4000-8000-000000000001"},
}

CALL = '<tool_call>\n{"name": "mcp__files__read_file", "arguments": {"path": "notes.txt"}}\n</tool_call>'


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "responses.db", says(f"I need the file.\n</think>\n\n{CALL}"))


def as_codex_replays(item: dict[str, Any]) -> dict[str, Any]:
    """Codex keeps no ids, and of a thought only its summary and what is encrypted."""
    left_out = {"id", "content"} if item["type"] == "reasoning" else {"id", "status"}
    return {key: value for key, value in item.items() if key not in left_out}


def test_its_first_request_is_answered_in_the_events_it_reads(desk: Desk) -> None:
    events = asyncio.run(desk.stream(**BODY))
    kinds = {event["type"] for event in events}
    assert {"response.created", "response.reasoning_text.delta", "response.output_item.done"} <= kinds
    assert events[-1]["type"] == "response.completed"
    response = events[-1]["response"]
    assert {"input_tokens", "output_tokens", "total_tokens"} <= response["usage"].keys()
    thought, call = response["output"]
    assert thought["encrypted_content"].startswith(SEAL)
    assert (call["type"], call["name"], call["namespace"]) == ("function_call", "read_file", "mcp__files")
    assert [tool["type"] for tool in response["tools"]] == ["function", "custom", "namespace"]
    for offered in ("exec_command", "apply_patch", "mcp__files__read_file"):
        assert f'"name": "{offered}"' in desk.prompt


def test_its_next_request_brings_everything_back(desk: Desk) -> None:
    async def run() -> None:
        thought, call = (await desk.stream(**BODY))[-1]["response"]["output"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "buy milk"}
        history = [*BODY["input"], as_codex_replays(thought), as_codex_replays(call), output]
        await desk.stream(**{**BODY, "input": history})
        assert "<think>\nI need the file.\n</think>" in desk.prompt
        assert CALL in desk.prompt
        assert "<tool_response>\nbuy milk\n</tool_response>" in desk.prompt

    asyncio.run(run())


def test_code_mode_puts_its_tools_into_the_input(desk: Desk) -> None:
    """From 0.145 on, some models' requests have no `tools` but an item that brings them."""
    more = {"type": "additional_tools", "role": "developer", "tools": TOOLS}
    body = {**BODY, "input": [more, *BODY["input"]]}
    del body["tools"]
    events = asyncio.run(desk.stream(**body))
    assert events[-1]["response"]["output"][1]["namespace"] == "mcp__files"
