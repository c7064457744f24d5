"""Grammars of arguments that are written neither as JSON nor in a style that xgrammar knows: Python's and Gemma's."""

from collections.abc import Callable, Sequence
from typing import Any

from tokenyard.http.errors import invalid
from tokenyard.http.formats.literals import GEMMA
from tokenyard.http.formats.values import dumps

Node = dict[str, Any]
"""One of xgrammar's formats: a JSON object with a type."""

MAX_WHITESPACE = 20
"""Between two tokens of JSON, as in all other grammars (workers/grammar_compiler.py)."""
MAX_DEPTH = 8
"""Of objects and lists in each other that are written out, and of schemas that name themselves."""
ANY_DEPTH = 0
"""Of those whose schema says nothing: each level makes the grammar four times as long."""
_KEY = "[A-Za-z_][A-Za-z0-9_]{0,63}:"


def python_arguments(schema: dict[str, Any], param: str) -> Node:
    """Keyword arguments of a Python call, the required ones first, with values as JSON, which its parser reads too.

    Raises TokenyardError naming what is no schema.
    """
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return _any_keywords()
    required = _required(schema, properties, param)
    optional = [name for name in properties if name not in required]

    def keyword(name: str, before: str) -> Node:
        inner = properties[name]
        value = {**inner, **definitions} if isinstance(inner, dict) else inner
        return sequence([{"type": "const_string", "value": f"{before}{name}="}, json_node(value)])

    def rest(names: Sequence[str]) -> list[Node]:
        return [{"type": "optional", "content": keyword(name, ", ")} for name in names]

    if required:
        first = [keyword(name, ", " if index else "") for index, name in enumerate(required)]
        return sequence([*first, *rest(optional)])
    starts = [sequence([keyword(name, ""), *rest(optional[index + 1 :])]) for index, name in enumerate(optional)]
    return {"type": "optional", "content": either(starts)} if starts else {"type": "const_string", "value": ""}


def _any_keywords() -> Node:
    keyword = sequence([{"type": "regex", "pattern": "[A-Za-z_][A-Za-z0-9_]{0,63}="}, json_node(True)])
    more = {"type": "star", "content": sequence([{"type": "const_string", "value": ", "}, keyword])}
    return {"type": "optional", "content": sequence([keyword, more])}


class GemmaArguments:
    """`{key:<|"|>text<|"|>,other:1}`, with keys in the schema's order."""

    def __init__(self, text: Callable[[str], list[Node]], free_until: Callable[[str], list[Node]]) -> None:
        """How a text, and any text up to a mark, become nodes: the quotation mark may be a special token."""
        self._text = text
        self._free_until = free_until
        self._root: dict[str, Any] = {}

    def node(self, schema: dict[str, Any], param: str) -> Node:
        """Raises TokenyardError naming the part of the schema that cannot be written out."""
        self._root = schema
        return self._object(schema, param, 0)

    def _value(self, schema: Any, param: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            invalid(param, f"cannot be forced in this model's format: deeper than {MAX_DEPTH} levels")
        if not isinstance(schema, dict) or not schema:
            return self._any(depth)
        if "$ref" in schema:
            return self._value(self._resolved(schema["$ref"], f"{param}.$ref"), param, depth + 1)
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema:
                ones = _listed_in(schema, word, param)
                return either([self._value(one, f"{param}.{word}.{i}", depth + 1) for i, one in enumerate(ones)])
        if "enum" in schema or "const" in schema:
            values = _listed_in(schema, "enum", param) if "enum" in schema else [schema["const"]]
            return either([self._literal(one) for one in values])
        kinds = schema.get("type", "object" if "properties" in schema else None)
        kinds = kinds if isinstance(kinds, list) and kinds else [kinds]
        return either([self._typed(kind, schema, param, depth) for kind in kinds])

    def _any(self, depth: int) -> Node:
        """Any value that is not nested too deeply."""
        scalars = [self._string({}, ""), json_node({"type": ["number", "boolean", "null"]})]
        if depth > ANY_DEPTH:
            return either(scalars)
        inner = self._any(depth + 1)
        members = _listed([], [sequence([{"type": "regex", "pattern": _KEY}, inner])], again=True)
        items = _listed([], [inner], again=True)
        objects = sequence([*self._text("{"), members, *self._text("}")])
        arrays = sequence([*self._text("["), items, *self._text("]")])
        return either([*scalars, objects, arrays])

    def _typed(self, kind: Any, schema: dict[str, Any], param: str, depth: int) -> Node:
        if kind == "string":
            return self._string(schema, param)
        if kind == "object":
            return self._object(schema, param, depth)
        if kind == "array":
            return self._array(schema, param, depth)
        return json_node({**schema, "type": kind}) if kind else self._value({}, param, depth)

    def _object(self, schema: dict[str, Any], param: str, depth: int) -> Node:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            member = sequence([{"type": "regex", "pattern": _KEY}, self._any(depth)])
            return sequence([*self._text("{"), _listed([], [member], again=True), *self._text("}")])
        required = _required(schema, properties, param)
        made = {
            name: sequence([*self._text(f"{name}:"), self._value(one, f"{param}.properties.{name}", depth + 1)])
            for name, one in properties.items()
        }
        optional = [made[name] for name in properties if name not in required]
        return sequence([*self._text("{"), _listed([made[name] for name in required], optional), *self._text("}")])

    def _array(self, schema: dict[str, Any], param: str, depth: int) -> Node:
        for word in ("prefixItems", "unevaluatedItems"):
            if word in schema:
                invalid(f"{param}.{word}", "cannot be forced in this model's format")
        item = self._value(schema.get("items"), f"{param}.items", depth + 1)
        low, high = _expect(int, schema, "minItems", 0, param), _expect(int, schema, "maxItems", -1, param)
        more = {"type": "repeat", "min": max(0, low - 1), "max": high - 1 if high > 0 else -1}
        items = sequence([item, {**more, "content": sequence([*self._text(","), item])}])
        inside = [] if high == 0 else [items if low else {"type": "optional", "content": items}]
        return sequence([*self._text("["), *inside, *self._text("]")])

    def _string(self, schema: dict[str, Any], param: str) -> Node:
        for word in ("format", "minLength", "maxLength"):
            if word in schema:
                invalid(f"{param}.{word}", "cannot be forced in this model's format")
        if "pattern" in schema:
            inside = {"type": "regex", "pattern": _expect(str, schema, "pattern", "", param)}
            return sequence([*self._text(GEMMA[2]), inside, *self._text(GEMMA[2])])
        return sequence([*self._text(GEMMA[2]), *self._free_until(GEMMA[2])])

    def _literal(self, value: Any) -> Node:
        return sequence(self._text(f"{GEMMA[2]}{value}{GEMMA[2]}" if isinstance(value, str) else dumps(value)))

    def _resolved(self, pointer: Any, param: str) -> Any:
        """What a `$ref` points to."""
        schema: Any = self._root
        for key in str(pointer).removeprefix("#").split("/")[1:]:
            schema = schema.get(key) if isinstance(schema, dict) else None
        if schema is None:
            invalid(param, "points to nothing in this schema")
        return schema


def _listed(required: list[Node], optional: list[Node], again: bool = False) -> Node:
    """Members with commas between them; `again`: the optional ones as often as the model likes."""
    comma: Node = {"type": "const_string", "value": ","}
    kind = "star" if again else "optional"
    after = [{"type": kind, "content": sequence([comma, one])} for one in optional]
    if required:
        return sequence([required[0], *(sequence([comma, one]) for one in required[1:]), *after])
    starts = [sequence([one, *(after if again else after[index + 1 :])]) for index, one in enumerate(optional)]
    return {"type": "optional", "content": either(starts)} if starts else {"type": "const_string", "value": ""}


def _expect(kind: type, schema: dict[str, Any], word: str, default: Any, param: str) -> Any:
    """The value of a keyword. Raises TokenyardError if it is of another type."""
    value = schema.get(word, default)
    if type(value) is not kind:
        invalid(f"{param}.{word}", f"must be of type {kind.__name__}")
    return value


def _required(schema: dict[str, Any], properties: dict[str, Any], param: str) -> list[str]:
    names = _expect(list, schema, "required", [], param)
    return [name for name in names if type(name) is str and name in properties]


def _listed_in(schema: dict[str, Any], word: str, param: str) -> list[Any]:
    values: list[Any] = _expect(list, schema, word, [], param)
    return values or invalid(f"{param}.{word}", "must not be empty")


def json_node(schema: Any, style: str = "json") -> Node:
    return {"type": "json_schema", "json_schema": schema, "style": style, "max_whitespace_cnt": MAX_WHITESPACE}


def sequence(nodes: list[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else {"type": "sequence", "elements": nodes}


def either(nodes: list[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else {"type": "or", "elements": nodes}
