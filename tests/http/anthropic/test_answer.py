"""Parts of a turn as content blocks, streamed and whole, held against the anthropic package's types."""

import functools
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import ContentBlock, Message, RawMessageStreamEvent
from strict import validated

from tokenyard.http.anthropic.answer import BlockEvents, content_of
from tokenyard.http.anthropic.conversation import read_conversation
from tokenyard.http.turns import CallArguments, CallBegun, CallEnded, Part, Text, Thought

CALLS: list[Part] = [
    CallBegun(0, "add"),
    CallArguments(0, '{"a"'),
    CallArguments(0, ": 1}"),
    CallEnded(0),
    CallBegun(1, "stop", "functions.stop:1"),
    CallEnded(1),
]
TURN: list[Part] = [Thought("Let "), Thought("me."), Text("Su"), Text("re."), *CALLS, Text("Done.")]
START = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": {}}


def streamed(parts: list[Part], omits_thoughts: bool = False) -> list[Any]:
    """The events of these parts."""
    blocks = BlockEvents(omits_thoughts)
    events = [event for part in parts for event in blocks.write(part)] + list(blocks.close())
    for event in events:
        validated(RawMessageStreamEvent, event)
    return events


def accumulated(events: list[Any]) -> list[Any]:
    """The content that the SDK makes of events."""
    usage = {"input_tokens": 1, "output_tokens": 1}
    start = {"type": "message_start", "message": {**START, "usage": usage}}
    message: Any = functools.reduce(
        lambda snapshot, event: accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers),
        [start, *events],
        None,
    )
    validated(Message, message.to_dict())
    return [block.to_dict() for block in message.content]


buffers: dict[int, bytes] = {}


@pytest.fixture(autouse=True)
def _empty() -> None:
    buffers.clear()


def without_made_ids(blocks: list[Any]) -> list[Any]:
    return [{**block, "id": "made"} if str(block.get("id")).startswith("toolu_") else block for block in blocks]


@pytest.mark.parametrize("omits_thoughts", [False, True])
def test_the_stream_adds_up_to_the_whole(omits_thoughts: bool) -> None:
    whole = content_of(TURN, omits_thoughts)
    for block in whole:
        validated(ContentBlock, block)
    assert without_made_ids(accumulated(streamed(TURN, omits_thoughts))) == without_made_ids(whole)


def test_each_kind_of_part_has_a_block_of_its_own() -> None:
    thought, text, add, stop, done = content_of(TURN, omits_thoughts=False)
    assert (thought["type"], thought["thinking"]) == ("thinking", "Let me.")
    assert text == {"type": "text", "text": "Sure."}
    assert (add["name"], add["input"]) == ("add", {"a": 1})
    assert stop == {"type": "tool_use", "id": "functions.stop:1", "name": "stop", "input": {}}
    assert done == {"type": "text", "text": "Done."}


def test_a_thought_ends_with_its_signature() -> None:
    kinds = [(event["type"], event.get("delta", {}).get("type")) for event in streamed([Thought("a"), Text("b")])]
    assert kinds == [
        ("content_block_start", None),
        ("content_block_delta", "thinking_delta"),
        ("content_block_delta", "signature_delta"),
        ("content_block_stop", None),
        ("content_block_start", None),
        ("content_block_delta", "text_delta"),
        ("content_block_stop", None),
    ]


def test_omitted_thoughts_come_back_with_their_signature() -> None:
    content = content_of([Thought("Secret."), Text("Hi.")], omits_thoughts=True)
    assert content[0]["thinking"] == ""
    (message,) = read_conversation([{"role": "assistant", "content": content}], None, None)
    assert message["reasoning_content"] == "Secret."


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "nonsense"])
def test_arguments_that_are_no_object_are_wrapped(arguments: str) -> None:
    (block,) = content_of([CallBegun(0, "add"), CallArguments(0, arguments), CallEnded(0)], omits_thoughts=False)
    assert block["input"] == {"INVALID_JSON": arguments}
    validated(ContentBlock, block)
