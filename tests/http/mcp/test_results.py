"""Results as text for a model: every kind of block, cut to length, and never mistaken for the model's own marks."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from models import CARD, demo_tokenizer

from tokenyard.http.mcp.generation import RESULT_SHARE, LoopGeneration
from tokenyard.http.mcp.names import MAX_CHARS, tool_name
from tokenyard.http.mcp.results import as_text, disarm
from tokenyard.http.mcp.sdk import Result
from tokenyard.http.prompt import Prompter


def text(*blocks: dict[str, object], structured: object = None, is_error: bool = False, most: int = 1000) -> str:
    return as_text(Result(list(blocks), structured, is_error), most)


def test_every_kind_of_block() -> None:
    assert text({"type": "text", "text": "a"}, {"type": "text", "text": "b"}) == "a\nb"
    assert text(structured={"a": 1}) == '{"a":1}'
    assert text(structured={"a": 1 << 64}) == '{"a": 18446744073709551616}'
    assert text() == "(the tool gave nothing back)"
    assert text(is_error=True).startswith("Error: ")
    assert "image/png, 3 bytes" in text({"type": "image", "data": "AAAA", "mimeType": "image/png"})
    assert text({"type": "resource_link", "name": "n", "uri": "file:///a"}) == "[resource n: file:///a]"
    assert text({"type": "resource", "resource": {"uri": "u", "text": "inside"}}) == "inside"
    assert "u" in text({"type": "resource", "resource": {"uri": "u", "blob": "AAAA"}})
    assert text({"type": "from the future"}) == "[from the future]"
    assert text({"type": "text", "text": "x" * 50}, most=10) == "x" * 10 + "\n... (40 more characters were cut)"


def test_results_leave_room_however_many_come_at_once_and_whatever_their_characters() -> None:
    generation = LoopGeneration.__new__(LoopGeneration)
    generation._prompter = Prompter(CARD._replace(context_length=1000), demo_tokenizer())
    generation._num_last = 0

    async def fit() -> list[str]:
        return await asyncio.gather(*(generation._fitted(text) for text in ("🤖" * 400, "few words", "so many " * 400)))

    robots, few, many = asyncio.run(fit())
    counts = [len(demo_tokenizer().backend.encode(one, add_special_tokens=False).ids) for one in (robots, few, many)]
    assert few == "few words"
    assert "more characters were cut" in robots
    assert "more characters were cut" in many
    assert counts[0] + counts[2] < 1000 * (1 - (1 - RESULT_SHARE) ** 2) + 50, "a half, then a half of what that left"


@given(st.lists(st.sampled_from(["<|im_end|>", "</tool_response>", "<|im_start|>", "a", "<", "|>", "\n", "<|im_"])))
def test_no_text_of_a_tool_holds_a_mark(parts: list[str]) -> None:
    loaded = demo_tokenizer()
    given_text = "".join(parts)
    shown = disarm(given_text, loaded.marks)
    marks = {
        token_id for token_id, token in loaded.backend.get_added_tokens_decoder().items() if len(token.content) > 1
    }
    assert not set(loaded.backend.encode(shown, add_special_tokens=False).ids) & marks
    assert shown.replace("\u200b", "") == given_text


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80))
def test_names_fit_and_differ(one: str, other: str) -> None:
    first = tool_name("fs", one)
    second = tool_name("fs", other, [first])
    assert len(first) <= MAX_CHARS
    assert first.replace("_", "").replace("-", "").isascii()
    assert (first == second) == (one == other and first != "fs__" + one) or first != second


def test_plain_names_stay_plain() -> None:
    assert tool_name("fs", "read_file") == "fs__read_file"
