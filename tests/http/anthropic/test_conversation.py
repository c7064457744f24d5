"""Content blocks as messages for a template, and refusals that name the block."""

import time
from typing import Any

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.anthropic.conversation import read_conversation
from tokenyard.http.anthropic.thoughts import signature_of

CALL = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
CALLED = {"id": "toolu_1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def read(*messages: Any, system: Any = None, kept_thoughts: int | None = None) -> list[dict[str, Any]]:
    return read_conversation(list(messages), system, kept_thoughts)


def user(*content: Any) -> dict[str, Any]:
    """A user's message, of one string or of blocks."""
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def result(content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **fields}


def test_strings_and_blocks_of_text() -> None:
    assert read(
        user("hi"), {"role": "assistant", "content": "Hello."}, user(text("a"), text("b")), system="Be kind."
    ) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "a\nb"},
    ]


def test_a_system_prompt_of_blocks_leaves_notes_for_accounts_out() -> None:
    cached = {"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}}
    billing = text("x-anthropic-billing-header: cc_version=2.1; cch=1a2b3;")
    assert read(user("hi"), system=[billing, cached, text("Two.")])[0] == {"role": "system", "content": "One.\nTwo."}
    assert read(user("hi"), system=[billing])[0]["role"] == "user"


def test_system_messages_join_the_prompt_until_the_assistant_has_spoken() -> None:
    late = {"role": "system", "content": [text("Hurry.")]}
    early = {"role": "system", "content": "Agents: none."}
    assert read(user("hi"), early, assistant(text("Hello.")), user("go"), late, system="Be kind.") == [
        {"role": "system", "content": "Be kind.\nAgents: none."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "go\n<system-reminder>\nHurry.\n</system-reminder>"},
    ]


def test_consecutive_messages_of_one_role_are_one_turn() -> None:
    messages = read(user("a"), user("b"), assistant(text("c")), assistant(text("d"), CALL))
    assert messages == [
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "cd", "tool_calls": [CALLED]},
    ]


def test_a_turn_of_many_messages_takes_no_quadratic_time() -> None:
    began = time.process_time()
    (message,) = read(*[user("a" * 400)] * 20_000)
    assert len(message["content"]) == 20_000 * 401 - 1
    assert time.process_time() - began < 2  # 0.02 s; joined one by one, 80 GB are copied


def test_calls_and_results() -> None:
    results = user(text("And now?"), result([text("3"), text("4")]), result("no", is_error=True), result(None))
    assert read(user("add"), assistant(text("Sure."), CALL), results)[1:] == [
        {"role": "assistant", "content": "Sure.", "tool_calls": [CALLED]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "3\n4", "name": "add"},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Error: no", "name": "add"},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "", "name": "add"},
        {"role": "user", "content": "And now?"},
    ]


def test_a_result_without_its_call_passes() -> None:
    assert read(user(result("3"))) == [{"role": "tool", "tool_call_id": "toolu_1", "content": "3"}]


def test_thoughts_come_back() -> None:
    shown = {"type": "thinking", "thinking": "Hm.", "signature": signature_of("Hm.", omitted=False)}
    omitted = {"type": "thinking", "thinking": "", "signature": signature_of("Größe?", omitted=True)}
    foreign = {"type": "thinking", "thinking": "", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"}
    redacted = {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix/LafPsn4a"}
    (message,) = read(assistant(shown, omitted, foreign, redacted, text("So.")))
    assert message == {"role": "assistant", "content": "So.", "reasoning_content": "Hm.Größe?"}


def test_old_thoughts_can_be_cleared() -> None:
    turns = [
        turn for words in "abc" for turn in (user("q"), assistant({"type": "thinking", "thinking": words}, text("x")))
    ]
    thoughts = [message.get("reasoning_content") for message in read(*turns, kept_thoughts=2)[1::2]]
    assert thoughts == [None, "b", "c"]


def test_documents_and_search_results_that_are_text() -> None:
    document = {
        "type": "document",
        "title": "Rules",
        "source": {"type": "text", "media_type": "text/plain", "data": "Be kind."},
        "citations": {"enabled": False},
    }
    parts = {"type": "document", "source": {"type": "content", "content": [text("One."), text("Two.")]}}
    found = {"type": "search_result", "title": "T", "source": "https://t.example", "content": [text("Found.")]}
    reference = {"type": "tool_reference", "tool_name": "add"}
    (message,) = read(user(document, parts))
    assert message["content"] == "Rules\nBe kind.\nOne.\nTwo."
    (message,) = read(user(result([found, reference])))
    assert message["content"] == "T\nhttps://t.example\nFound.\nThe tool add can be used now."


BAD: list[tuple[Any, str]] = [
    ("hi", "messages.0"),
    ({"content": "x"}, "messages.0.role"),
    ({"role": "tool", "content": "x"}, "messages.0.role"),
    ({"role": "user"}, "messages.0.content"),
    ({"role": "user", "content": 5}, "messages.0.content"),
    (user(text("a"), "b"), "messages.0.content.1"),
    (user(*[text("a")] * 1025), "messages.0.content"),
    (user({"text": "a"}), "messages.0.content.0.type"),
    (user({"type": 1}), "messages.0.content.0.type"),
    (user({"type": "text"}), "messages.0.content.0.text"),
    (user({"type": "image", "source": {"type": "base64"}}), "messages.0.content.0.type"),
    (user({"type": "container_upload"}), "messages.0.content.0.type"),
    (user({"type": "document", "source": {"type": "url"}}), "messages.0.content.0.source.type"),
    (user({"type": "document", "source": {"type": "text"}}), "messages.0.content.0.source.data"),
    (
        user({"type": "document", "source": {"type": "content", "content": [1]}}),
        "messages.0.content.0.source.content.0",
    ),
    (
        user({"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": True}}),
        "messages.0.content.0.citations.enabled",
    ),
    (user(CALL), "messages.0.content.0.type"),
    (user({"type": "tool_result"}), "messages.0.content.0.tool_use_id"),
    (user(result([{"type": "image"}])), "messages.0.content.0.content.0.type"),
    (user(result(5)), "messages.0.content.0.content"),
    (user(result("x", is_error="yes")), "messages.0.content.0.is_error"),
    (assistant(result("x")), "messages.0.content.0.type"),
    (assistant({**CALL, "id": 1}), "messages.0.content.0.id"),
    (assistant({**CALL, "name": ""}), "messages.0.content.0.name"),
    (assistant({**CALL, "input": "{}"}), "messages.0.content.0.input"),
    (assistant({"type": "server_tool_use"}), "messages.0.content.0.type"),
    (assistant({"type": "thinking"}), "messages.0.content.0.thinking"),
    (
        assistant({"type": "thinking", "thinking": "", "signature": "ty1.%"}),
        "messages.0.content.0.signature",
    ),
    ({"role": "system", "content": [{"type": "image"}]}, "messages.0.content.0.type"),
    ({"role": "system", "content": []}, "messages"),
    (assistant({"type": "mcp_tool_use", "id": "a", "name": "add", "input": {}}), "messages.0.content.0.server_name"),
    (assistant({"type": "mcp_tool_use", "id": "a", "server_name": "s"}), "messages.0.content.0.name"),
]


@pytest.mark.parametrize(("message", "param"), BAD)
def test_bad_blocks_are_refused_by_name(message: Any, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        read(message)
    assert caught.value.param == param
    assert caught.value.words.startswith(param)
    assert len(caught.value.words) < 300


@pytest.mark.parametrize(("system", "param"), [([{"type": "text"}], "system.0.text"), ([5], "system.0")])
def test_bad_system_blocks_are_refused_by_name(system: Any, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        read(user("hi"), system=system)
    assert caught.value.param == param
