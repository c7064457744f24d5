"""HTTP bytes to events to records, however the network cuts them."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sse_reader import Record, ResponseReader, read_record

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def event(text: str, **more: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text}], **more}).encode()


@given(cuts=st.lists(st.integers(0, 400), max_size=30), border=st.integers(1, 40))
def test_events_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int], border: int) -> None:
    events = [event("one"), event("zwei\u00df"), b"data: [DONE]"]
    body = b"".join(one + b"\n\n" for one in events)
    response = CHUNKED_HEAD + chunk(body[:border]) + chunk(body[border:]) + chunk(b"")
    reader = ResponseReader()
    seen: list[bytes] = []
    places = [0, *sorted(min(cut, len(response)) for cut in cuts), len(response)]
    for start, end in pairwise(places):
        assert not reader.complete or start == len(response)
        seen += reader.feed(response[start:end])
    assert seen == events
    assert (reader.status, reader.complete, bytes(reader.text)) == (200, True, b"")


def test_a_refusal_is_kept_whole() -> None:
    reader = ResponseReader()
    words = b'{"error": "no\n\nsuch model"}'
    assert reader.feed(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(words)) == []
    assert not reader.complete
    assert reader.feed(words) == []
    assert (reader.status, reader.complete, bytes(reader.text)) == (404, True, words)


def test_a_record_counts_tokens_by_usage_and_chunks_by_text() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 4}
    events = [
        (1.0, b": keep-alive"),
        (2.0, event("a")),
        (3.0, event("")),
        (3.5, event("b")),
        (4.0, b"data: " + json.dumps({"choices": [], "usage": usage}).encode()),
        (4.0, b"data: [DONE]"),
    ]
    assert read_record(0.5, events, 4.5) == Record(0.5, [2.0, 3.5], 4.5, 7, 4)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([event("a"), b'data: {"error": "out of memory"}'], "out of memory"),
        ([event("a")], "without usage"),
        ([event("", usage={"prompt_tokens": 1, "completion_tokens": 1})], "without text"),
    ],
)
def test_a_stream_that_went_wrong_is_no_record(events: list[bytes], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_record(0.0, [(1.0, one) for one in events], 2.0)
