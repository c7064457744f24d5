"""The form of an answer: each field's grammar on the wire, and what is refused by its path."""

import json
from typing import Any

import pytest

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import GRAMMAR_KINDS, Grammar
from tokenyard.http.grammars import MAX_CHARS
from tokenyard.http.schemas import parse_chat, parse_completion

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))
PATH = "response_format.json_schema.schema"
TOOL = {"type": "function", "function": {"name": "f"}}


def chat(**fields: Any) -> Grammar | None:
    return parse_chat({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).grammar


def of_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Grammar("json_object", "", "response_format")),
        (
            {"response_format": {"type": "json_object", "value": SCHEMA}},
            Grammar("json_schema", TEXT, "response_format.value"),
        ),
        ({"response_format": of_schema(SCHEMA, strict=True)}, Grammar("json_schema", TEXT, PATH)),
        ({"response_format": of_schema(SCHEMA), "guided_json": None}, Grammar("json_schema", TEXT, PATH)),
        ({"guided_json": SCHEMA}, Grammar("json_schema", TEXT, "guided_json")),
        ({"guided_json": json.dumps(SCHEMA)}, Grammar("json_schema", TEXT, "guided_json")),
        ({"guided_regex": "a+"}, Grammar("regex", "a+", "guided_regex")),
        ({"guided_choice": ["é", "b"]}, Grammar("choice", '["é","b"]', "guided_choice")),
        ({"guided_grammar": 'root ::= "a"'}, Grammar("ebnf", 'root ::= "a"', "guided_grammar")),
        ({"structured_outputs": {"json": SCHEMA}}, Grammar("json_schema", TEXT, "structured_outputs.json")),
        ({"structured_outputs": {"regex": "a", "json": None}}, Grammar("regex", "a", "structured_outputs.regex")),
        ({"structured_outputs": {"json_object": True}}, Grammar("json_object", "", "structured_outputs.json_object")),
        ({"response_format": {"type": "text"}, "guided_regex": "a"}, Grammar("regex", "a", "guided_regex")),
        ({"guided_regex": "a", "tools": [TOOL], "tool_choice": "none"}, Grammar("regex", "a", "guided_regex")),
        (
            {"structured_outputs": {"structural_tag": '{"type": "structural_tag", "format": {"type": "any_text"}}'}},
            Grammar(
                "structural_tag",
                '{"type":"structural_tag","format":{"type":"any_text"}}',
                "structured_outputs.structural_tag",
            ),
        ),
        ({"response_format": {"type": "text"}, "tools": [TOOL]}, None),
        ({"response_format": {"type": "json_object"}, "tools": [TOOL]}, Grammar("json_object", "", "response_format")),
    ],
)
def test_each_field_becomes_a_grammar(fields: dict[str, Any], grammar: Grammar | None) -> None:
    assert chat(**fields) == grammar
    assert grammar is None or grammar.kind in GRAMMAR_KINDS


def test_completions_take_them_too() -> None:
    request = parse_completion({"model": "m", "prompt": "hi", "guided_regex": "a+"})
    assert request.grammar == Grammar("regex", "a+", "guided_regex")


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def deep_value(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": ["json_object"]}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, PATH),
        ({"response_format": of_schema([])}, PATH),
        ({"response_format": of_schema("{")}, PATH),
        ({"response_format": of_schema({"enum": ["x" * MAX_CHARS]})}, PATH),
        ({"response_format": of_schema({"enum": [deep_value(300)]})}, PATH),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_regex": "a" * (MAX_CHARS + 1)}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice.1"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_grammar": ["a"]}, "guided_grammar"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": []}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "json_object": True}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"structural_tag": []}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"structural_tag": {"format": 1}}}, "structured_outputs.structural_tag.format"),
        (
            {"structured_outputs": {"structural_tag": {"format": {"x": deep_value(300)}}}},
            "structured_outputs.structural_tag",
        ),
        ({"response_format": {"type": "structural_tag"}}, "response_format.structures"),
        (
            {"response_format": {"type": "structural_tag", "structures": [{"schema": {"not": {}}}]}},
            "response_format.structures.0.schema.not",
        ),
        (
            {"response_format": {"type": "structural_tag", "structures": [{"schema": {}, "begin": ""}]}},
            "response_format.structures.0.begin",
        ),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
    ],
)
def test_what_is_no_grammar_is_refused_by_its_path(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        chat(**fields)
    assert (caught.value.code, caught.value.param) == ("invalid_value", param)
    assert len(caught.value.words) < 300


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"not": {}}, ".not"),
        ({"type": "array", "uniqueItems": True}, ".uniqueItems"),
        ({"type": "integer", "multipleOf": 3}, ".multipleOf"),
        ({"type": "object", "properties": {"a": {"if": {}}}}, ".properties.a.if"),
        ({"$defs": {"d": {"type": "array", "items": {"contains": {}}}}}, ".$defs.d.items.contains"),
        ({"anyOf": [{"type": "string"}, {"dependentRequired": {}}]}, ".anyOf.1.dependentRequired"),
        ({"anyOf": [{"type": "string"}], "type": "string"}, ".type"),
        ({"$ref": "#/$defs/x", "maxLength": 3, "$defs": {"x": {}}}, ".maxLength"),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, ".allOf"),
        ({"anyOf": []}, ".anyOf"),
        ({"$ref": "http://example.com/x"}, ".$ref"),
        ({"enum": [1], "maximum": 3}, ".maximum"),
        ({"items": [{}]}, ".items"),
        ({"type": "array", "minItems": 1}, ".minItems"),
        ({"maxLength": 3}, ".maxLength"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, ".pattern"),
        ({"type": "string", "pattern": "a", "format": "date"}, ".pattern"),
        ({"type": "object", "properties": {}, "required": ["a"]}, ".required"),
        ({"type": "object", "required": ["a"]}, ".required"),
        (nested(70), ".items" * 65),
    ],
)
def test_what_a_schema_says_and_nothing_enforces_is_refused_by_its_path(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        chat(guided_json=schema)
    assert caught.value.param == f"guided_json{path}"


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "array", "uniqueItems": False, "items": {"type": "string", "minLength": 1, "maxLength": 3}},
        {"$ref": "#/$defs/x", "$defs": {"x": {"type": "string"}}, "title": "t", "description": "d", "x-mine": 1},
        {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "t"},
        {"type": "string", "enum": ["a", "b"]},
        {"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"type": "integer"}}},
        {"type": "object", "properties": {"not": {"type": "string"}, "maxLength": {}}, "required": ["not"]},
        {"properties": 5, "required": [["a"]], "type": {}},
        {"properties": {"a": 5}, "required": 3},
        nested(60),
    ],
)
def test_what_can_be_enforced_passes_and_what_is_malformed_is_the_workers_to_refuse(schema: dict[str, Any]) -> None:
    assert chat(guided_json=schema) is not None


def test_the_older_form_of_structural_tags_is_read() -> None:
    structures = [{"begin": "<f>", "schema": {"type": "integer"}, "end": "</f>"}]
    grammar = chat(response_format={"type": "structural_tag", "structures": structures, "triggers": ["<f"]})
    assert grammar is not None
    content = {"type": "json_schema", "json_schema": {"type": "integer"}}
    tag = {"type": "tag", "begin": "<f>", "content": content, "end": "</f>"}
    assert json.loads(grammar.text)["format"] == {"type": "triggered_tags", "triggers": ["<f"], "tags": [tag]}
