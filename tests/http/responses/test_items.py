"""Input items: what clients send is read, in every spelling, or refused by its path."""

from typing import Any

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.responses.items import read_input
from tokenyard.http.responses.messages import to_messages
from tokenyard.http.seals import seal


def messages(items: list[Any], instructions: str | None = None) -> list[dict[str, Any]]:
    return to_messages(instructions, read_input(items))


def test_a_string_is_a_users_message() -> None:
    (item,) = read_input("hi")
    assert item["content"] == [{"type": "input_text", "text": "hi"}]
    assert (item["role"], item["type"], item["status"]) == ("user", "message", "completed")
    assert item["id"].startswith("msg_")


def test_messages_in_every_spelling() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert messages(
        [
            {"role": "developer", "content": "be brief"},
            {"type": "message", "role": "user", "content": parts},
            {"role": "assistant", "content": "c"},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [
                    {"type": "output_text", "text": "d", "annotations": []},
                    {"type": "refusal", "refusal": "e"},
                ],
            },
        ]
    ) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "de"},
    ]


def test_instructions_and_the_first_system_messages_are_one() -> None:
    system = [{"role": "developer", "content": "b"}, {"role": "system", "content": "c"}]
    assert messages([*system, {"role": "user", "content": "d"}, *system], "a") == [
        {"role": "system", "content": "a\n\nb\n\nc"},
        {"role": "user", "content": "d"},
        {"role": "system", "content": "b"},
        {"role": "system", "content": "c"},
    ]


CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "2"}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}


def shown_call(name: str = "add", arguments: str = '{"a": 1}', call_id: str = "c1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_one_turn_of_the_assistant_is_one_message() -> None:
    text = {"role": "assistant", "content": "Let me see."}
    assert messages([THOUGHT, text, CALL, {**CALL, "call_id": "c2"}, OUTPUT]) == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "hm",
            "tool_calls": [shown_call(), shown_call(call_id="c2")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]


def test_a_thought_begins_another_message() -> None:
    first, second = messages([CALL, THOUGHT, {**CALL, "call_id": "c2"}])
    assert first == {"role": "assistant", "content": "", "tool_calls": [shown_call()]}
    assert second["reasoning_content"] == "hm"


def test_namespaces_and_custom_tools_go_back_under_the_names_the_model_knows() -> None:
    custom = {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "*** Begin"}
    output = {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "done"}]}
    assert messages([{**CALL, "namespace": "math"}, custom, output]) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [shown_call("math__add"), shown_call("patch", '{"input":"*** Begin"}', "c2")],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "done"},
    ]


@pytest.mark.parametrize(
    ("thought", "text"),
    [
        ({"content": None, "summary": [{"type": "summary_text", "text": "short"}]}, "short"),
        ({"summary": [], "encrypted_content": seal("hm 🤖")}, "hm 🤖"),
        (
            {"summary": [], "content": [{"type": "reasoning_text", "text": "plain"}], "encrypted_content": seal("x")},
            "plain",
        ),
    ],
)
def test_thoughts_come_back_from_wherever_they_are(thought: dict[str, Any], text: str) -> None:
    items = [{"type": "reasoning", **thought}, {"role": "assistant", "content": "a"}]
    assert messages(items)[0]["reasoning_content"] == text


def test_items_keep_the_ids_they_come_with() -> None:
    assert [item["id"] for item in read_input([THOUGHT, {**CALL, "id": "fc_7"}])] == ["rs_1", "fc_7"]


@pytest.mark.parametrize("reference", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}])
def test_references_remember_their_place(reference: dict[str, Any]) -> None:
    assert read_input([CALL, reference])[1] == {"type": "item_reference", "id": "msg_1", "param": "input.1.id"}


BAD: list[tuple[Any, str]] = [
    (5, "input.0"),
    ({}, "input.0.type"),
    ({"type": "mcp_call"}, "input.0.server_label"),
    ({"type": "mcp_approval_response", "approval_request_id": "a"}, "input.0.approve"),
    ({"type": "mcp_approval_request", "id": "a", "server_label": "a", "name": 5}, "input.0.name"),
    ({"type": 5}, "input.0.type"),
    ({"role": "robot", "content": "x"}, "input.0.role"),
    ({"type": "message", "content": "x"}, "input.0.role"),
    ({"role": "user"}, "input.0.content"),
    ({"role": "user", "content": 5}, "input.0.content"),
    ({"role": "user", "content": [5]}, "input.0.content.0"),
    ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "input.0.content.0.type"),
    ({"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}, "input.0.content.0.type"),
    ({"role": "user", "content": [{"type": "input_text"}]}, "input.0.content.0.text"),
    ({"role": "user", "content": "x", "id": ""}, "input.0.id"),
    ({"role": "assistant", "content": "x", "phase": 1}, "input.0.phase"),
    ({**CALL, "call_id": None}, "input.0.call_id"),
    ({**CALL, "name": ""}, "input.0.name"),
    ({**CALL, "arguments": {}}, "input.0.arguments"),
    ({**CALL, "namespace": 1}, "input.0.namespace"),
    ({**OUTPUT, "output": None}, "input.0.output"),
    ({**OUTPUT, "output": [{"type": "input_image", "image_url": "x"}]}, "input.0.output.0.type"),
    ({"type": "custom_tool_call", "call_id": "x", "name": "y"}, "input.0.input"),
    ({"type": "reasoning", "summary": "x"}, "input.0.summary"),
    ({"type": "reasoning", "summary": [5]}, "input.0.summary.0.text"),
    ({"type": "reasoning", "encrypted_content": "gAAAAA"}, "input.0.encrypted_content"),
    ({"type": "reasoning", "encrypted_content": "ty1.%%"}, "input.0.encrypted_content"),
    ({"type": "item_reference"}, "input.0.id"),
    ({"type": "additional_tools", "tools": {}}, "input.0.tools"),
]


@pytest.mark.parametrize(("item", "param"), BAD)
def test_what_cannot_be_read_is_refused_by_its_path(item: Any, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        read_input([item])
    assert (caught.value.code, caught.value.param) == ("invalid_value", param)
    assert caught.value.words.startswith(param)
