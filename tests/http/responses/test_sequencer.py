"""Events of a response: dense numbers, everything added is done, and deltas, done events and final object agree."""

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import EVENTS

from tokenyard.http.responses.sequencer import Event, Sequencer
from tokenyard.http.responses.toolbox import Offer
from tokenyard.http.seals import unseal
from tokenyard.http.turns import CallArguments, CallBegun, CallEnded, Part, Text, Thought

OFFERS = {
    "add": Offer("function", "add"),
    "shop__buy": Offer("function", "buy", "shop"),
    "patch": Offer("custom", "patch"),
}


def sequencer(status: str = "in_progress", sealed: bool = False) -> Sequencer:
    response = {"id": "resp_1", "status": status, "output": [], "usage": None, "error": None}
    return Sequencer(response, OFFERS, sealed)


def told(parts: list[Part], end: str = "completed", cut: bool = False, sealed: bool = False) -> list[Event]:
    one = sequencer(sealed=sealed)
    events = one.begin()
    for part in parts:
        events += one.push(part, cut=cut)
    events += one.fail("server_error", "words") if end == "failed" else one.end(end, {}, 1.0)
    return events


@st.composite
def turns(draw: st.DrawFn) -> list[Part]:
    """Any parts that a parser may give: calls begin in order, and arguments come only while a call is open."""
    parts: list[Part] = []
    is_open: list[int] = []
    num_calls = 0
    for _ in range(draw(st.integers(0, 25))):
        what = draw(st.sampled_from(["thought", "text", "begin", "arguments", "end"]))
        text = draw(st.text(max_size=5))
        if what == "thought":
            parts.append(Thought(text))
        elif what == "text":
            parts.append(Text(text))
        elif what == "begin":
            parts.append(
                CallBegun(num_calls, draw(st.sampled_from([*OFFERS, "unknown"])), draw(st.sampled_from(["", "x"])))
            )
            is_open.append(num_calls)
            num_calls += 1
        elif is_open:
            number = draw(st.sampled_from(is_open))
            if what == "arguments":
                parts.append(CallArguments(number, text))
            else:
                parts.append(CallEnded(number))
                is_open.remove(number)
    return parts


def text_of(item: dict[str, Any]) -> str:
    """All that an item says."""
    if "content" in item:
        return "".join(part["text"] for part in item["content"])
    return str(item["arguments"] if item["type"] == "function_call" else item["input"])


@given(turns(), st.sampled_from(["completed", "incomplete", "cancelled", "failed"]), st.booleans())
def test_any_turn_is_told_consistently(parts: list[Part], end: str, cut: bool) -> None:
    events = told(parts, end, cut)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert {event["type"] for event in events} <= EVENTS.keys()
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    *_, last = events
    output = last["response"]["output"]
    assert last["response"]["status"] == end
    added = {event["output_index"]: event["item"] for event in events if event["type"] == "response.output_item.added"}
    done = {event["output_index"]: event["item"] for event in events if event["type"] == "response.output_item.done"}
    assert list(added) == list(range(len(output)))
    assert [done[index] for index in range(len(output))] == output
    assert [added[index]["id"] for index in added] == [item["id"] for item in output]
    assert all(text_of(item) == "" for item in added.values())
    deltas: dict[int, str] = defaultdict(str)
    finals: dict[int, str] = {}
    for event in events:
        if "delta" in event:
            assert event["item_id"] == added[event["output_index"]]["id"]
            deltas[event["output_index"]] += event["delta"]
        elif event["type"].endswith(("text.done", "arguments.done", "input.done")):
            finals[event["output_index"]] = next(event[key] for key in ("text", "arguments", "input") if key in event)
    for index, item in enumerate(output):
        assert deltas[index] == finals[index] == text_of(item)


@given(turns())
def test_nothing_that_was_said_is_lost(parts: list[Part]) -> None:
    output = told(parts)[-1]["response"]["output"]
    for kind, part_kind in (("message", Text), ("reasoning", Thought)):
        said = "".join(part.text for part in parts if isinstance(part, part_kind))
        assert "".join(text_of(item) for item in output if item["type"] == kind) == said
    calls = [item for item in output if item["type"].endswith("call")]
    assert len(calls) == sum(isinstance(part, CallBegun) for part in parts)


def test_the_order_of_events() -> None:
    call: list[Part] = [CallBegun(0, "add"), CallArguments(0, "{}"), CallEnded(0)]
    kinds = [event["type"] for event in told([Thought("hm"), Text("a"), Text("b"), *call])]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_a_queued_response_says_so_first() -> None:
    one = sequencer("queued")
    events = one.begin()
    assert [event["type"] for event in events] == ["response.created", "response.queued", "response.in_progress"]
    assert [event["response"]["status"] for event in events] == ["queued", "queued", "in_progress"]
    assert one.begin() == []


def test_a_silent_turn_is_an_empty_message() -> None:
    (item,) = told([])[-1]["response"]["output"]
    assert (item["type"], text_of(item)) == ("message", "")


def test_a_call_by_namespace_comes_out_under_its_own_name() -> None:
    (item,) = told([CallBegun(0, "shop__buy", "id7"), CallEnded(0)])[-1]["response"]["output"]
    assert (item["name"], item["namespace"], item["call_id"]) == ("buy", "shop", "id7")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [('{"input": "*** Begin"}', "*** Begin"), ('{"other": 1}', '{"other": 1}'), ("no json", "no json"), ("[1]", "[1]")],
)
def test_a_custom_call_is_told_as_plain_text(arguments: str, text: str) -> None:
    middle = len(arguments) // 2
    parts = [CallArguments(0, arguments[:middle]), CallArguments(0, arguments[middle:])]
    events = told([CallBegun(0, "patch"), *parts, CallEnded(0)])
    assert [event["delta"] for event in events if "delta" in event] == [text]
    assert events[-1]["response"]["output"][0]["input"] == text


@pytest.mark.parametrize(("arguments", "status"), [('{"a": ', "incomplete"), ('{"a": 1}', "completed")])
def test_a_call_that_the_limit_cut_is_incomplete(arguments: str, status: str) -> None:
    events = told([CallBegun(0, "add"), CallArguments(0, arguments), CallEnded(0)], "incomplete", cut=True)
    assert events[-1]["response"]["output"][0]["status"] == status


def test_sealed_thoughts_can_be_read_back() -> None:
    (item,) = told([Thought("hm 🤖")], "incomplete", sealed=True)[-1]["response"]["output"]
    assert unseal(item["encrypted_content"], "") == "hm 🤖"
    assert "encrypted_content" not in told([Thought("hm")])[-1]["response"]["output"][0]


def test_a_failure_before_anything_tells_the_whole_life() -> None:
    events = sequencer().fail("server_error", "words")
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "words"}
