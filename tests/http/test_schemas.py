"""Request bodies: JSON to typed requests, and the rules between fields."""

import gc
from typing import Any

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.schemas import MAX_DEPTH, parse_chat, parse_completion, parse_json

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"a": NaN}', b'{"a": Infinity}', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(TokenyardError, match="the body"):
        parse_json(body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"temperature": NaN}', "temperature"),
        (b'{"model": "m", "tools": [{}, {"function": {"minimum": -Infinity}}]}', "tools.1.function.minimum"),
        (b'{"temperature": NaN', None),
        (b"NaN", None),
        (b"[" * 100_000, None),
        (b'{"x": ' + b"9" * 10_000 + b', "y": NaN}', None),
        (b'{"x": "' + b"x" * 1_000_000 + b'", "y": NaN}', None),
    ],
)
def test_a_number_that_json_does_not_have_is_named(body: bytes, param: str | None) -> None:
    with pytest.raises(TokenyardError, match="not valid JSON") as caught:
        parse_json(body)
    assert caught.value.param == param


def nested(num_levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """An object whose lists, or objects, are so many levels with itself."""
    return b'{"a": ' + opening * (num_levels - 1) + b"1" + closing * (num_levels - 1) + b"}"


def test_what_is_nested_too_deeply_is_refused() -> None:
    """It could not be written again: the answer to a response shows its tools, a template prints them."""
    for opening, closing in ((b"[", b"]"), (b'{"a": ', b"}")):
        assert parse_json(nested(MAX_DEPTH, opening, closing))
        with pytest.raises(TokenyardError, match=f"more than {MAX_DEPTH} levels"):
            parse_json(nested(MAX_DEPTH + 1, opening, closing))
    assert parse_json(b'{"a": [' + b"[]," * 1000 + b"[]]}")


def test_parsing_leaves_the_collector_on() -> None:
    parse_json(b'{"a": [[]]}')
    assert gc.isenabled()


@pytest.mark.parametrize("body", [{**COMPLETION, "prompt": ["a"] * 65, "n": 2}, {**COMPLETION, "prompt": [[1]] * 129}])
def test_there_are_not_too_many_choices(body: dict[str, Any]) -> None:
    with pytest.raises(TokenyardError, match="128") as caught:
        parse_completion(body)
    assert caught.value.param == "prompt"
    parse_completion({**body, "prompt": [5] * 1000})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({**CHAT, "messages": CHAT["messages"] * 4097}, "messages"),  # type: ignore[operator]
        ({**CHAT, "tools": [{}] * 513}, "tools"),
        ({"messages": CHAT["messages"]}, "model"),
        ({"model": "m"}, "messages"),
        ({**CHAT, "top_logprobs": 2}, "top_logprobs"),
        ({**CHAT, "stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_chat_rules_between_fields(body: dict[str, Any], param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        parse_chat(body)
    assert caught.value.param == param


def test_the_newer_name_of_the_limit_wins_and_is_the_one_named() -> None:
    request = parse_chat({**CHAT, "max_tokens": 5, "max_completion_tokens": 7})
    assert (request.max_tokens, request.max_tokens_param) == (7, "max_completion_tokens")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, -1), ({"logprobs": False}, -1), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 3}, 3)],
)
def test_chat_logprobs(fields: dict[str, Any], expected: int) -> None:
    assert parse_chat({**CHAT, **fields}).num_logprobs == expected


def test_completion_logprobs_and_best_of() -> None:
    assert parse_completion(COMPLETION).num_logprobs == -1
    assert parse_completion({**COMPLETION, "logprobs": 0}).num_logprobs == 0
    assert parse_completion({**COMPLETION, "n": 2, "best_of": 3}).num_candidates == 3
    assert parse_completion({**COMPLETION, "n": 2}).num_candidates == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"prompt": ["a"] * 65, "best_of": 2}, "prompt"),
        ({"suffix": "x", "echo": True}, "echo"),
        ({"suffix": "x", "truncate_prompt_tokens": 4}, "truncate_prompt_tokens"),
        ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
    ],
)
def test_completion_fields_that_exclude_each_other(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        parse_completion({**COMPLETION, **fields})
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, -1),
        ({"logprobs": 3}, -1),
        ({"echo": True}, -1),
        ({"echo": True, "logprobs": 3}, 3),
        ({"prompt_logprobs": 5, "echo": True, "logprobs": 3}, 5),
    ],
)
def test_what_asks_for_a_prompts_logprobs(fields: dict[str, Any], expected: int) -> None:
    assert parse_completion({**COMPLETION, **fields}).num_prompt_logprobs == expected


def test_stream_options_are_read() -> None:
    request = parse_chat({**CHAT, "stream": True, "stream_options": {"include_usage": True, "x": 1}})
    assert request.stream_options.include_usage
    assert not request.stream_options.continuous_usage_stats
