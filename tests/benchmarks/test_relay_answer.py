"""The relay benchmark's reader: however bytes are cut, it sees what came, and what did not."""

import json
import re
from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay_answer import Answer
from relay_words import CARD, said, text_of, tokenizer

from tokenyard.http.detokenize import Detokenizer

PATH = "/v1/chat/completions"
SEED, COUNT = 7, 24


def token_events(path: str = PATH) -> list[bytes]:
    """One event a token."""
    detokenizer = Detokenizer(tokenizer())
    texts = [detokenizer.push(token_id) for token_id in said(SEED, COUNT)]
    assert all(texts)
    choices = [{"delta": {"content": text}} if "chat" in path else {"text": text} for text in texts]
    return [b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n" for choice in choices]


def body(events: list[bytes], finish: str = "length", count: int = COUNT, done: str = "data: [DONE]\n\n") -> bytes:
    """Each event in a chunk of its own, and the end in one."""
    choice = json.dumps({"choices": [{"delta": {}, "finish_reason": finish}]})
    usage = json.dumps({"choices": [], "usage": {"completion_tokens": count, "total_tokens": count + 9}})
    end = f"data: {choice}\n\ndata: {usage}\n\n{done}".encode()
    chunks = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*events, end]]
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"


def bounds(data: bytes, cuts: list[int]) -> list[int]:
    return sorted({0, len(data), *(cut % len(data) for cut in cuts)})


def read(data: bytes, cuts: list[int], path: str = PATH) -> Answer:
    answer = Answer(path, SEED)
    for number, (start, end) in enumerate(pairwise(bounds(data, cuts))):
        answer.take(data[start:end], float(number))
    return answer


@given(st.lists(st.integers(0, 10_000)), st.sampled_from([PATH, "/v1/completions"]))
def test_a_whole_answer_has_no_fault_however_it_is_cut(cuts: list[int], path: str) -> None:
    events = token_events(path)
    data = body(events)
    answer = read(data, cuts, path)
    assert answer.fault(COUNT) == ""
    assert answer.num_events == COUNT
    assert answer.num_writes == COUNT + 1
    ends = [match.end() for match in re.finditer(rb"data: .*\n\n", data)][:COUNT]
    arrivals_s = answer.arrivals_s(COUNT).tolist()
    assert arrivals_s == [bisect_left(bounds(data, cuts)[1:], end) for end in ends], "each with the read that ends it"
    assert answer.longest_gap_s == max(later - earlier for earlier, later in pairwise(arrivals_s))


@pytest.mark.parametrize(
    "data",
    [
        body(token_events()[:-1]),
        body(token_events()[:5] + token_events()[6:]),
        body(token_events()[:5] + token_events()[4:]),
        body([*token_events()[:5], token_events()[6], token_events()[5], *token_events()[7:]]),
        body(token_events(), finish="stop"),
        body(token_events(), count=COUNT - 1),
        body(token_events(), done=""),
        body(token_events())[:-1],
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n{}",
    ],
    ids=["last lost", "lost", "twice", "swapped", "finish", "usage", "no mark", "no end", "refused"],
)
def test_what_is_missing_is_found(data: bytes) -> None:
    assert read(data, []).fault(COUNT)


def test_neighbouring_streams_say_different_things() -> None:
    texts = [text_of(seed, COUNT)[0] for seed in range(100)]
    assert len(set(texts)) == 100
    assert not {*CARD.eos_token_ids} & {token_id for seed in range(100) for token_id in said(seed, COUNT)}
