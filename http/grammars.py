"""What a request says of its answer's form, as the wire's Grammar: OpenAI's `response_format`, and vLLM's fields.

Each function is a field's Check (checks.py). What a schema says and no grammar can enforce is refused here
(json_schemas.py); what is no regular expression or grammar at all is found by the worker, before the first token.
"""

from typing import Any

import orjson

from tokenyard.broker.params import Grammar
from tokenyard.http.checks import Schema, array, boolean, described, instance, or_null, string
from tokenyard.http.errors import invalid
from tokenyard.http.json_schemas import check_schema

MAX_CHARS = 120_000
"""Of one grammar: OpenAI's limit of all strings in a schema. The worst that was found so long compiles in a minute."""
MAX_CHOICES = 1000
"""OpenAI's limit of an enum's values."""

_text = string(1, MAX_CHARS)
_structures = array(instance(dict, words="an object"), 1, MAX_CHOICES)
_choices = array(string(1, MAX_CHARS), 1, MAX_CHOICES)


_JSON_SCHEMA: Schema = {"type": ["object", "string"]}


@described(
    {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": ["text", "json_object", "json_schema", "structural_tag"]},
            "json_schema": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "schema": _JSON_SCHEMA, "strict": {"type": "boolean"}},
            },
        },
    }
)
def response_format(value: Any, param: str) -> Grammar | None:
    """OpenAI's: text, json_object or json_schema. The schema is enforced, `strict` or not.

    huggingface_hub's client makes of a json_schema a json_object with the schema as its `value`, as TGI had it.
    """
    kind = value.get("type") if type(value) is dict else None
    if kind == "text":
        return None
    if kind == "json_object":
        schema = value.get("value")
        return Grammar("json_object", "", param) if schema is None else json_schema(schema, f"{param}.value")
    if kind == "structural_tag":
        return structural_tag(value, param)
    if kind != "json_schema":
        invalid(param, "must be an object whose type is text, json_object, json_schema or structural_tag")
    inner = value.get("json_schema")
    if type(inner) is not dict:
        invalid(f"{param}.json_schema", "must be an object with a name and a schema")
    return json_schema(inner.get("schema"), f"{param}.json_schema.schema")


def _object(value: Any, param: str, words: str) -> dict[str, Any]:
    """An object, or the one that a string of JSON holds."""
    if type(value) is str:
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            invalid(param, "is not valid JSON")
    if type(value) is not dict:
        invalid(param, f"must be {words}")
    found: dict[str, Any] = value
    return found


@described(_JSON_SCHEMA)
def json_schema(value: Any, param: str) -> Grammar:
    """A JSON Schema, as an object or as a string that holds one."""
    value = _object(value, param, "a JSON Schema: an object")
    try:
        text = orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        check_schema(value, param)  # names the place where it is too deep
        invalid(param, str(error))  # values of an enum, say, may be nested deeper than schemas
    if len(text) > MAX_CHARS:
        invalid(param, f"must have at most {MAX_CHARS} characters as JSON, not {len(text)}")
    check_schema(value, param)
    return Grammar("json_schema", text, param)


@described(_text.schema)
def regex(value: Any, param: str) -> Grammar:
    """A regular expression that the whole answer matches."""
    return Grammar("regex", _text(value, param), param)


@described(_choices.schema)
def choice(value: Any, param: str) -> Grammar:
    """A list of texts, one of which is the answer."""
    return Grammar("choice", _text(orjson.dumps(_choices(value, param)).decode(), param), param)


@described(_text.schema)
def ebnf(value: Any, param: str) -> Grammar:
    """A grammar in EBNF whose root rule is `root`."""
    return Grammar("ebnf", _text(value, param), param)


@described(boolean.schema)
def _json_object(value: Any, param: str) -> Grammar | None:
    return Grammar("json_object", "", param) if boolean(value, param) else None


@described({"type": ["object", "string"]})
def structural_tag(value: Any, param: str) -> Grammar:
    """xgrammar's structural tag, as an object or as a string that holds one; its older form with triggers, too."""
    value = _object(value, param, "an object")
    if "format" not in value:
        value = {"format": _triggered(value, param)}
    if type(value["format"]) is not dict:
        invalid(f"{param}.format", "must be an object")
    try:
        text = orjson.dumps({"type": "structural_tag", "format": value["format"]}).decode()
    except orjson.JSONEncodeError as error:  # nested too deeply
        invalid(param, str(error))
    return Grammar("structural_tag", _text(text, param), param)


def _triggered(value: dict[str, Any], param: str) -> dict[str, Any]:
    tags = []
    for index, tag in enumerate(_structures(value.get("structures"), f"{param}.structures")):
        at = f"{param}.structures.{index}"
        schema = json_schema(tag.get("schema"), f"{at}.schema")
        content = {"type": "json_schema", "json_schema": orjson.loads(schema.text)}
        begin, end = (_text(tag.get(name), f"{at}.{name}") for name in ("begin", "end"))
        tags.append({"type": "tag", "begin": begin, "content": content, "end": end})
    return {"type": "triggered_tags", "triggers": _choices(value.get("triggers"), f"{param}.triggers"), "tags": tags}


_STRUCTURED = {
    "json": json_schema,
    "regex": regex,
    "choice": choice,
    "grammar": ebnf,
    "json_object": _json_object,
    "structural_tag": structural_tag,
}


@described(
    {
        "type": "object",
        "properties": {name: or_null(check.schema) for name, check in _STRUCTURED.items()},
        "additionalProperties": {"type": "null"},
    }
)
def structured_outputs(value: Any, param: str) -> Grammar | None:
    """vLLM's object: exactly one of json, regex, choice, grammar, json_object, structural_tag."""
    if type(value) is not dict:
        invalid(param, "must be an object")
    named = {key: one for key, one in value.items() if one is not None}
    for key in named.keys() - _STRUCTURED.keys():
        invalid(f"{param}.{key}", "is not supported here")
    if len(named) != 1:
        invalid(param, f"must have exactly one of {', '.join(_STRUCTURED)}")
    [(key, one)] = named.items()
    return _STRUCTURED[key](one, f"{param}.{key}")


def only_one(grammars: dict[str, Grammar | None]) -> Grammar | None:
    """The one grammar among a request's fields. Raises TokenyardError naming the second if there are two."""
    asked = [(name, grammar) for name, grammar in grammars.items() if grammar is not None]
    if len(asked) > 1:
        invalid(asked[1][0], f"cannot be combined with {asked[0][0]}")
    return asked[0][1] if asked else None
