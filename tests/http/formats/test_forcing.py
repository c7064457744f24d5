"""Forced calls: whatever a grammar lets a model say, its format's parser reads as the calls that were asked for."""

import json
import random
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import xgrammar
from formats import CALLS
from models import CARD, DEMO
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast
from turns import feed

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Grammar
from tokenyard.broker.wire import Card
from tokenyard.http.detokenize import Detokenizer
from tokenyard.http.formats.forcing import Forcing, Thinking
from tokenyard.http.formats.registry import FORMATS, Speech
from tokenyard.http.formats.thoughts import THOUGHT_MARKS
from tokenyard.http.library import LoadedTokenizer
from tokenyard.http.tools import Calling, read_calling
from tokenyard.http.turns import Turn
from tokenyard.workers.grammar_compiler import GrammarCompiler

ADD = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 99},
        "note": {"type": "string", "pattern": "^[a-z]{1,5}$"},
        "kind": {"enum": ["x", "y"]},
        "deep": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
    },
    "required": ["a", "kind", "deep"],
}
SCHEMAS: dict[str, Any] = {"add": ADD, "now": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": one}} for name, one in SCHEMAS.items()]
FORCIBLE = [name for name, form in FORMATS.items() if form.layout is not None]
TAGGED = ("glm", "qwen-coder")
"""Arguments between tags, which are plain text in xgrammar's grammars, and no special tokens in these vocabularies."""
BENCHES = [(name, special) for name in FORCIBLE for special in (True, False) if not (special and name in TAGGED)]
THINK = THOUGHT_MARKS[0]


class Bench:
    """One format over the demo model's vocabulary, to which the format's marks are added, as special tokens or not."""

    def __init__(self, name: str, special: bool, folder: Path) -> None:
        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(DEMO)
        marks = [AddedToken(mark, special=special) for mark in (*FORMATS[name].marks, *THINK)]
        tokenizer.add_special_tokens({"additional_special_tokens": marks}) if special else tokenizer.add_tokens(marks)
        tokenizer.save_pretrained(folder)
        self.card: Card = CARD._replace(source=str(folder), vocab_size=len(tokenizer))
        self.loaded = LoadedTokenizer(tokenizer)
        self.speech = Speech(FORMATS[name], THINK)
        self.hidden = frozenset(
            token_id
            for text, token_id in self.loaded.special.items()
            if not any(text in mark for mark in self.speech.marks)
        )
        self.compiler = GrammarCompiler(self.card)

    def grammar(self, calling: Calling, thinking: Thinking = Thinking.NONE, answer: Grammar | None = None) -> Grammar:
        assert self.speech.format is not None
        forcing = Forcing(self.speech.format.layout, self.speech.thought, self.loaded.special)
        made = forcing.grammar(calling, answer, thinking)
        assert made is not None
        return made

    def matcher(self, grammar: Grammar) -> xgrammar.GrammarMatcher:
        return xgrammar.GrammarMatcher(self.compiler.compile(grammar))

    def takes(self, grammar: Grammar, text: str) -> bool:
        ids = self.loaded.backend.encode(text, add_special_tokens=False).ids
        matcher = self.matcher(grammar)
        return all(map(matcher.accept_token, ids)) and matcher.is_completed()

    def says(self, grammar: Grammar, seed: int) -> str:
        """What a model without any sense says under the grammar."""
        chance, matcher = random.Random(seed), self.matcher(grammar)
        bits = np.zeros((1, (self.card.vocab_size + 32) // 32), np.int32)
        detokenizer = Detokenizer(self.loaded.backend, skip_special=False, hidden=self.hidden)
        text = ""
        for _ in range(600):
            matcher.fill_next_token_bitmask(bits)
            allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")[: self.card.vocab_size + 1])
            if self.card.vocab_size in allowed:
                return text + detokenizer.flush()
            token_id = int(chance.choice(allowed))
            assert matcher.accept_token(token_id)
            text += detokenizer.push(token_id)
        raise AssertionError("no end")

    def reads(self, text: str, prompt: str = "<|start|>assistant") -> Turn:
        parser = self.speech.parser(prompt, "", SCHEMAS, None)
        assert parser is not None
        return feed(parser, text, 3)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return cache(lambda name, special: Bench(name, special, tmp_path_factory.mktemp("bench")))


def choice(value: Any, parallel: bool = True, tools: list[Any] = TOOLS) -> Calling:
    return read_calling(tools, value, parallel)


def check(turn: Turn, names: set[str]) -> None:
    assert turn.calls
    assert turn.text == ""
    for call in turn.calls:
        assert call.name in names
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


@pytest.mark.parametrize(("name", "special"), BENCHES)
def test_whatever_a_grammar_allows_is_read_as_calls(bench: Any, name: str, special: bool) -> None:
    one = bench(name, special)
    for seed in range(4):
        check(one.reads(one.says(one.grammar(choice("required")), seed)), {"add", "now"})
        named = choice({"type": "function", "function": {"name": "add"}})
        turn = one.reads(one.says(one.grammar(named), seed))
        check(turn, {"add"})
        assert len(turn.calls) == 1


@pytest.mark.parametrize(("name", "special"), BENCHES)
def test_what_a_model_would_say_is_allowed(bench: Any, name: str, special: bool) -> None:
    """The format's own sample, whose arguments have other keys than these tools: so any arguments are allowed."""
    one = bench(name, special)
    loose = [{"type": "function", "function": {"name": tool}} for tool in ("add", "now")]
    sample = CALLS[name]
    if name == "harmony":
        sample = sample.partition("<|call|>")[0]
    if name == "gemma4":
        sample = sample.replace(',{x:<|"|>y<|"|>}', "")  # what has no schema is not nested deeply
    if name == "pythonic":
        sample = sample.replace("'", '"').replace('say "hi" ', "say ")
    assert one.takes(one.grammar(choice("required", tools=loose)), sample)
    assert not one.takes(one.grammar(choice("required", tools=loose)), "No.")


@pytest.mark.parametrize(("name", "special"), BENCHES)
def test_a_thought_may_come_first(bench: Any, name: str, special: bool) -> None:
    one = bench(name, special)
    harmony = name == "harmony"
    opening = "<|channel|>analysis<|message|>" if harmony else "<think>\n"
    closing = "<|end|><|start|>assistant" if harmony else "\n</think>\n\n"
    required = choice("required")
    call = one.says(one.grammar(required), 0)
    possible = one.grammar(required, Thinking.POSSIBLE)
    assert one.takes(possible, call)
    assert one.takes(possible, f"{opening}Which one?{closing}{call}")
    assert not one.takes(one.grammar(required), f"{opening}Which one?{closing}{call}")
    if not harmony:
        begun = one.grammar(required, Thinking.BEGUN)
        assert one.takes(begun, f"Which one?{closing}{call}")
        assert not one.takes(begun, call)
        turn = one.reads(f"Which one?{closing}{call}", "<think>")
        assert (turn.thought, len(turn.calls) > 0) == ("Which one?", True)


@pytest.mark.parametrize(("name", "special"), BENCHES)
def test_a_strict_tool_is_called_rightly_or_not_at_all(bench: Any, name: str, special: bool) -> None:
    one = bench(name, special)
    strict = [{"type": "function", "function": {**tool["function"], "strict": True}} for tool in TOOLS]
    grammar = one.grammar(choice("auto", tools=strict))
    assert grammar.param == "tools.0.function.strict"
    call = one.says(one.grammar(choice("required", parallel=False)), 1)
    said = "<|channel|>final<|message|>Well, no." if name == "harmony" else "Well, no."
    assert one.takes(grammar, said)
    assert one.takes(grammar, call)
    assert not one.takes(grammar, call.replace("add", "sub").replace("now", "sub"))
    assert not one.takes(grammar, call[: len(call) // 2])


@pytest.mark.parametrize("name", FORCIBLE)
def test_an_answer_in_form_or_a_call(bench: Any, name: str) -> None:
    one = bench(name, name not in TAGGED)
    call = one.says(one.grammar(choice("required", parallel=False)), 1)
    before = "<|channel|>final<|message|>" if name == "harmony" else ""
    forms = [
        (Grammar("json_schema", json.dumps(ADD), "response_format"), '{"a": 1, "kind": "x", "deep": {"on": true}}'),
        (Grammar("json_object", "", "response_format"), '{"z": 1}'),
        (Grammar("regex", "[0-9]+", "guided_regex"), "17"),
        (Grammar("choice", '["yes", "no"]', "guided_choice"), "yes"),
        (Grammar("ebnf", 'root ::= "a" root | "b"', "guided_grammar"), "aab"),
    ]
    for answer, text in forms:
        grammar = one.grammar(choice("auto"), answer=answer)
        assert grammar.param == answer.param
        assert one.takes(grammar, before + text)
        assert one.takes(grammar, call)
        assert not one.takes(grammar, before + "?")
        alone = one.grammar(choice("none"), Thinking.POSSIBLE, answer)
        assert one.takes(alone, before + text)
        assert not one.takes(alone, before + "?")


def test_one_call_at_the_most(bench: Any) -> None:
    one = bench("hermes", False)
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert one.takes(one.grammar(choice("required")), f"{call}\n{call}")
    assert not one.takes(one.grammar(choice("required", parallel=False)), f"{call}\n{call}")


def test_only_allowed_tools_are_called(bench: Any) -> None:
    one = bench("hermes", False)
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}
    grammar = one.grammar(choice({"type": "allowed_tools", "allowed_tools": allowed}))
    assert one.takes(grammar, 'So: <tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>')
    assert not one.takes(grammar, '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>')


def test_what_asks_for_nothing_has_no_grammar() -> None:
    forcing = Forcing(FORMATS["hermes"].layout, None, {})
    assert forcing.grammar(choice("auto"), None, Thinking.NONE) is None
    answer = Grammar("regex", "a", "guided_regex")
    assert forcing.grammar(choice("none"), answer, Thinking.NONE) is answer


@pytest.mark.parametrize(
    ("tools", "value", "param"),
    [
        ([{"type": "function", "function": {"name": "f f"}}], "required", "tools.0.function.name"),
        (
            [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"not": {}}}}],
            "auto",
            "tools.0.function.parameters.not",
        ),
    ],
)
def test_what_cannot_be_forced_is_named(tools: list[Any], value: str, param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        Forcing(FORMATS["hermes"].layout, None, {}).grammar(choice(value, tools=tools), None, Thinking.NONE)
    assert caught.value.param == param


def test_a_format_that_nobody_can_force_names_who_asked() -> None:
    with pytest.raises(TokenyardError) as caught:
        Forcing(None, None, {}).grammar(choice("required"), None, Thinking.NONE)
    assert caught.value.param == "tool_choice"


def test_a_grammar_has_an_end() -> None:
    parameters = {"type": "object", "properties": {"a": {"enum": ["x" * 50_000]}}}
    tools = [{"function": {"name": f"f{index}", "parameters": parameters}} for index in range(5)]
    with pytest.raises(TokenyardError) as caught:
        Forcing(FORMATS["hermes"].layout, None, {}).grammar(choice("required", tools=tools), None, Thinking.NONE)
    assert caught.value.param == "tool_choice"


def test_values_nested_too_deeply_are_no_failure() -> None:
    value: Any = 1
    for _ in range(300):
        value = [value]
    tools = [{"function": {"name": "f", "parameters": {"enum": [value]}}}]
    with pytest.raises(TokenyardError) as caught:
        Forcing(FORMATS["hermes"].layout, None, {}).grammar(choice("required", tools=tools), None, Thinking.NONE)
    assert caught.value.param == "tool_choice"


def test_what_gemma_cannot_be_held_to() -> None:
    """Its strings have no quotation marks of JSON, which xgrammar's formats and lengths are about."""
    forcing = Forcing(FORMATS["gemma4"].layout, None, {})
    parameters = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}}
    function = {"name": "f", "parameters": parameters}
    loose = forcing.grammar(choice("required", tools=[{"function": function}]), None, Thinking.NONE)
    assert loose is not None
    strict = choice("required", tools=[{"function": {**function, "strict": True}}])
    with pytest.raises(TokenyardError) as caught:
        forcing.grammar(strict, None, Thinking.NONE)
    assert caught.value.param == "tools.0.function.parameters.properties.day.format"


def test_gemmas_arguments_follow_their_schema(bench: Any) -> None:
    one = bench("gemma4", True)
    parameters = {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 1, "maxItems": 2},
            "size": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["tags"],
        "$defs": {"tag": {"type": "string"}},
    }
    tools = [{"function": {"name": "f", "parameters": parameters}}]
    grammar = one.grammar(choice("required", parallel=False, tools=tools))
    call = "<|tool_call>call:f{{{}}}<tool_call|>"
    for good in ('tags:[<|"|>a<|"|>]', 'tags:[<|"|>a<|"|>,<|"|>b "c"<|"|>],size:null'):
        assert one.takes(grammar, call.format(good)), good
    for bad in ("", "tags:[]", 'tags:[<|"|>a<|"|>,<|"|>b<|"|>,<|"|>c<|"|>]', 'size:1,tags:[<|"|>a<|"|>]', "tags:[1]"):
        assert not one.takes(grammar, call.format(bad)), bad


@pytest.mark.parametrize("name", ["gemma4", "pythonic"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"required": 5},
        {"required": [[]]},
        {"properties": {"a": {"anyOf": 1}}},
        {"properties": {"a": {"anyOf": []}}},
        {"properties": {"a": {"enum": "x"}}},
        {"properties": {"a": {"enum": []}}},
        {"properties": {"a": {"type": "array", "minItems": "1", "items": {}}}},
        {"properties": {"a": {"type": "string", "pattern": 1}}},
        {"properties": {"a": {"type": []}}},
        {"properties": {"a": {"$ref": "#/nowhere"}}},
        {"properties": {"a": {"$ref": "#"}}},
        {"properties": {"a": 5}},
    ],
)
def test_schemas_that_are_none_never_fail_otherwise(bench: Any, name: str, wrong: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"a": {}}, **wrong}
    tools = [{"function": {"name": "f", "parameters": schema, "strict": True}}]
    one = bench(name, False)
    with suppress(TokenyardError):
        one.matcher(one.grammar(choice("required", tools=tools)))
