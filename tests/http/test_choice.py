"""One choice: tokens in; shown text, logprobs that belong to it, and one end out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import demo_tokenizer

from tokenyard.broker.wire import Finish
from tokenyard.http.choice import Choice, Piece
from tokenyard.http.detokenize import Detokenizer
from tokenyard.http.stops import StopScanner

END = 2039
TEXT = "Hello 🤖 world, how are you?"


def ids(text: str) -> list[int]:
    encoded: list[int] = demo_tokenizer().backend.encode(text).ids
    return encoded


def choice(
    stops: list[str] | None = None,
    include: bool = False,
    num_logprobs: int = -1,
    skip_special: bool = True,
    min_tokens: int = 0,
) -> Choice:
    return Choice(
        0,
        Detokenizer(demo_tokenizer().backend, skip_special),
        StopScanner(stops or [], include),
        show_stop_token=include,
        min_tokens=min_tokens,
        num_logprobs=num_logprobs,
    )


def run(one: Choice, token_ids: list[int], finish: Finish, size: int = 1) -> list[Piece]:
    """Push the tokens `size` a delta, the last with the finish, until the choice is over."""
    pieces = []
    for at in range(0, len(token_ids), size):
        batch = token_ids[at : at + size]
        extra: dict[str, Any] = {"logprobs": [[-1.0, [token, 0], [-1.0, -2.0]] for token in batch]}
        pieces.append(one.push(batch, extra, finish if at + size >= len(token_ids) else None))
        if one.finished:
            break
    return pieces


def shown(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_the_stop_token_is_counted_but_not_shown() -> None:
    one = choice(skip_special=False)
    pieces = run(one, [*ids(TEXT), END], Finish("stop"))
    assert shown(pieces) == TEXT
    assert pieces[-1].finish_reason == "stop"
    assert one.num_tokens == len(ids(TEXT)) + 1
    assert (
        shown(run(choice(include=True, skip_special=False), [*ids(TEXT), END], Finish("stop"))) == TEXT + "<|im_end|>"
    )


def test_a_last_token_that_is_no_stop_is_shown() -> None:
    pieces = run(choice(), ids(TEXT), Finish("length"))
    assert shown(pieces) == TEXT
    assert [piece.finish_reason for piece in pieces[-2:]] == [None, "length"]


def test_the_end_flushes_half_characters_and_held_back_text() -> None:
    robot = ids("🤖")
    assert shown(run(choice(), robot[:-1], Finish("length"))) == "\ufffd"
    assert shown(run(choice(["world!"]), ids("my world"), Finish("length"))) == "my world"


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_stop_string_ends_it_for_good(size: int) -> None:
    one = choice([" world, h"])
    pieces = run(one, ids(TEXT), Finish("length"), size)
    assert shown(pieces) == "Hello 🤖"
    assert (one.finished, pieces[-1].finish_reason) == (True, "stop")


def test_stop_strings_wait_for_min_tokens() -> None:
    words = "one two one two one"
    count = len(ids("one two"))
    assert shown(run(choice(["one"], min_tokens=count), ids(words), Finish("length"))) == "one two "
    assert shown(run(choice(["one"], min_tokens=100), ids(words), Finish("length"))) == words


def test_a_stop_string_completed_by_the_flush_counts() -> None:
    assert shown(run(choice(["\ufffd"]), [*ids("x"), *ids("🤖")[:1]], Finish("length"))) == "x"


def test_cached_tokens_are_remembered() -> None:
    one = choice()
    one.push([], {"cached_tokens": 16}, None)
    one.push(ids("x"), {}, None)
    assert one.num_cached == 16


def test_an_empty_first_delta_is_an_empty_piece() -> None:
    assert choice().push([], {}, None) == Piece("", [], [], None)


@given(st.integers(1, 7), st.sampled_from([[], ["how"], [", how are"], ["🤖 w"], ["zzz"]]), st.integers(0, 2))
def test_logprobs_are_those_of_the_shown_tokens(size: int, stops: list[str], num_logprobs: int) -> None:
    pieces = run(choice(stops, num_logprobs=num_logprobs), [*ids(TEXT), END], Finish("stop"), size)
    entries = [entry for piece in pieces for entry in piece.logprobs]
    expected = ids(TEXT)[: len(entries)]
    assert [entry.token_id for entry in entries] == expected
    assert all(len(entry.top) == num_logprobs for entry in entries)
    text = shown(pieces)
    assert all(entry.offset < len(text) for entry in entries)
    assert demo_tokenizer().backend.decode(expected).startswith(text)
    if not any(stop in TEXT for stop in stops):
        assert expected == ids(TEXT)


@given(st.lists(st.lists(st.integers(0, 2047), max_size=4)), st.booleans())
def test_deltas_in_mid_stream_take_a_short_way_to_the_same_pieces(deltas: list[list[int]], skip_special: bool) -> None:
    """Broken characters included, as any ids may follow each other."""
    short, long = choice(skip_special=skip_special), choice(skip_special=skip_special)
    long._as_is = False
    for number, token_ids in enumerate(deltas):
        extra = {} if number else {"cached_tokens": 16}
        assert short.push(token_ids, extra, None) == long.push(token_ids, extra, None)
    assert short.push([END], {}, Finish("length")) == long.push([END], {}, Finish("length"))
    assert vars(short).keys() == vars(long).keys()
    for name in ("num_tokens", "num_cached", "_num_chars", "_num_shown", "finished"):
        assert getattr(short, name) == getattr(long, name), name


def test_no_logprobs_without_asking() -> None:
    assert not any(piece.logprobs for piece in run(choice(), ids(TEXT), Finish("length")))
