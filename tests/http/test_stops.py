"""Stop strings: the shown text is the whole text up to the first complete match, however it is cut into pushes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenyard.http.stops import StopScanner

LETTERS = "abc"
"""A small alphabet, so that matches, overlaps and near-misses are common."""
texts = st.text(LETTERS, max_size=30)
stop_lists = st.lists(st.text(LETTERS, min_size=1, max_size=5), min_size=1, max_size=4)
cuts = st.lists(st.integers(1, 4), min_size=1, max_size=40)


def pieces(text: str, sizes: list[int]) -> list[str]:
    """The text cut into pieces of these sizes, the last size again and again."""
    cut, start = [], 0
    while start < len(text):
        size = sizes[min(len(cut), len(sizes) - 1)]
        cut.append(text[start : start + size])
        start += size
    return cut


def expected(text: str, stops: list[str], include: bool) -> tuple[str, bool]:
    """By str.find on the whole text: the match that is complete first, the longest of those."""
    matches = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    if not matches:
        return text, False
    end, length = min(matches)
    return text[: end if include else end + length], True


@given(texts, stop_lists, cuts, st.booleans())
def test_shows_what_a_search_of_the_whole_text_shows(
    text: str, stops: list[str], sizes: list[int], include: bool
) -> None:
    scanner = StopScanner(stops, include)
    shown = ""
    for piece in pieces(text, sizes):
        shown += scanner.push(piece)
        assert expected(text, stops, include)[0].startswith(shown), "text was shown that a stop string then cuts"
    if scanner.stopped is None:
        shown += scanner.flush()
    assert (shown, scanner.stopped is not None) == expected(text, stops, include)


@given(texts, stop_lists)
def test_holds_back_no_more_than_it_must(text: str, stops: list[str]) -> None:
    scanner = StopScanner(stops)
    shown = scanner.push(text)
    held = text[len(shown) :]
    if scanner.stopped is None and held:
        assert any(stop.startswith(held) for stop in stops)


def test_without_stops_everything_passes() -> None:
    scanner = StopScanner([])
    assert scanner.push("any text") == "any text"
    assert scanner.flush() == ""


def test_nothing_comes_after_a_match() -> None:
    scanner = StopScanner(["END"])
    assert scanner.push("all END of") == "all "
    assert (scanner.push("it"), scanner.flush(), scanner.stopped) == ("", "", "END")


@pytest.mark.parametrize(("include", "shown"), [(False, "a"), (True, "a\n\n")])
def test_a_match_across_pushes_is_trimmed_or_included(include: bool, shown: str) -> None:
    scanner = StopScanner(["\n\n"], include)
    assert scanner.push("a\n") + scanner.push("\nb") == shown
