"""Grammars over the demo model's vocabulary: what each kind allows, and words for what is none."""

import json
from typing import Any

import pytest
import xgrammar
from models import CARD, demo_tokenizer

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import GRAMMAR_KINDS, Grammar
from tokenyard.workers import grammar_compiler
from tokenyard.workers.grammar_compiler import GrammarCompiler

COMPILER = GrammarCompiler(CARD)
END = CARD.vocab_size
TAG = {
    "type": "structural_tag",
    "format": {
        "type": "tag",
        "begin": "<tool_call>",
        "content": {"type": "json_schema", "json_schema": {"type": "object"}},
        "end": "</tool_call>",
    },
}


def takes(kind: str, text: str, answer: str) -> bool:
    """Whether a grammar allows exactly this answer, token by token."""
    matcher = xgrammar.GrammarMatcher(COMPILER.compile(Grammar(kind, text, "field")))
    return all(map(matcher.accept_token, [*demo_tokenizer().backend.encode(answer).ids, END]))


SAID = '"said"\n\té \\ 😀'


@pytest.mark.parametrize(
    ("kind", "text", "good", "bad"),
    [
        ("json_schema", '{"type": "integer", "minimum": 5}', ["5", "17"], ["4", "5.5", '"5"', ""]),
        ("json_object", "", ["{}", '{"a": [1, {"b": null}]}', '{\n  "a": "é"\n}'], ["[]", "{", '{"a"}', "{}x"]),
        ("regex", "a[0-9]+", ["a1", "a123"], ["a", "1", "a1b"]),
        ("choice", json.dumps(["yes", "no", SAID]), ["yes", "no", SAID], ["y", "yesno", "", "said"]),
        ("ebnf", 'root ::= "a" root | "b"', ["b", "aab"], ["a", "ba"]),
        ("structural_tag", json.dumps(TAG), ['<tool_call>{"a": 1}</tool_call>'], ["<tool_call>", '{"a": 1}']),
    ],
)
def test_each_kind(kind: str, text: str, good: list[str], bad: list[str]) -> None:
    assert kind in GRAMMAR_KINDS
    assert [takes(kind, text, one) for one in good] == [True] * len(good)
    assert [takes(kind, text, one) for one in bad] == [False] * len(bad)


def test_white_space_has_an_end() -> None:
    assert takes("json_object", "", '{"a":' + " " * 20 + "1}")
    assert not takes("json_object", "", '{"a":' + " " * 21 + "1}")


def test_no_text_holds_a_special_token() -> None:
    matcher = xgrammar.GrammarMatcher(COMPILER.compile(Grammar("regex", ".*", "field")))
    mask = xgrammar.allocate_token_bitmask(1, END + 1)
    matcher.fill_next_token_bitmask(mask)
    allowed = mask[0].tolist()
    for token in CARD.eos_token_ids:
        assert not allowed[token // 32] >> token % 32 & 1
    assert allowed[END // 32] >> END % 32 & 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", '{"type": "strng"}'),
        ("json_schema", '{"properties": 5, "type": "object"}'),
        ("json_schema", "{"),
        ("regex", "(a"),
        ("regex", "a\0"),
        ("choice", "yes"),
        ("choice", '["a"'),
        ("ebnf", "root ::= nobody"),
        ("structural_tag", "{}"),
        ("verse", ""),
    ],
)
def test_what_is_no_grammar_is_refused_with_words(kind: str, text: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        COMPILER.compile(Grammar(kind, text, "field.x"))
    assert (caught.value.code, caught.value.param) == ("invalid_value", "field.x")
    assert ".cc:" not in caught.value.words


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ({"not": {"type": "string"}}, '"a"'),
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "[1, 1]"),
        ({"type": "integer", "multipleOf": 3, "minimum": 5}, "7"),
        ({"type": "array", "items": {"type": "integer"}, "contains": {"const": 1}}, "[2]"),
        ({"if": {"type": "string"}, "then": False}, '"a"'),
        ({"type": "string", "pattern": "^a+$", "maxLength": 2}, '"aaa"'),
        ({"maxLength": 1}, '"aa"'),
        ({"type": "object", "properties": {}, "required": ["a"]}, "{}"),
        ({"anyOf": [{"type": "string"}], "maxLength": 1}, '"aa"'),
        ({"$ref": "#/$defs/x", "maxLength": 1, "$defs": {"x": {"type": "string"}}}, '"aa"'),
        ({"allOf": [{"type": "integer"}, {"type": "integer", "maximum": 3}]}, '"a"'),
    ],
)
def test_what_the_front_refuses_would_not_be_enforced(schema: dict[str, Any], wrong: str) -> None:
    """Why http/json_schemas.py has its list: where this fails after an update, the list can shrink."""
    assert takes("json_schema", json.dumps(schema), wrong)


def test_a_tokenizer_that_cannot_be_loaded_is_the_workers_fault() -> None:
    with pytest.raises(TokenyardError) as caught:
        GrammarCompiler(CARD._replace(source="/nowhere")).compile(Grammar("regex", "a", "field"))
    assert caught.value.code == "worker_error"


def test_many_repetitions_in_a_pattern() -> None:
    assert takes("json_schema", '{"type": "string", "pattern": "^[a-z]{1,300}$"}', '"' + "ab" * 150 + '"')


def test_compiled_once_and_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(CARD)
    first, again = (compiler.begin(Grammar("regex", "a+", "field")) for _ in range(2))
    assert again is first
    bad = Grammar("regex", "(", "field")
    assert compiler.begin(bad).exception() is not None
    assert compiler.begin(Grammar("regex", "b+", "field")).result()
    assert compiler.begin(Grammar("regex", "a+", "field")) is first
    monkeypatch.setattr(grammar_compiler, "CACHE_BYTES", first.result().memory_size_bytes)
    for letter in "cd":
        compiler.begin(Grammar("regex", f"{letter}+", "field")).result()
    assert compiler.begin(Grammar("regex", "a+", "field")) is not first
