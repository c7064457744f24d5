"""Which JSON Schemas can be enforced token by token. What would be left aside in silence is refused by its path here.

The worker compiles a schema (workers/grammar_compiler.py) and says what is malformed in it; it does not say which
keywords it passes over, so this is the list of those, found by trying each (tests/workers/test_grammar_compiler.py).
"""

from collections.abc import Iterator
from typing import Any

from tokenyard.http.errors import invalid

MAX_DEPTH = 64
"""Of schemas in schemas: 50 compile in 30 ms, 900 in over a minute. OpenAI allows 10."""

NOT_ENFORCED = frozenset({
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "multipleOf", "dependencies",
    "dependentRequired", "dependentSchemas", "additionalItems", "$dynamicRef", "$recursiveRef",
})  # fmt: skip
WHOLE = ("$ref", "anyOf", "oneOf", "allOf", "enum", "const")
"""Each says all of a schema: what stands beside it is passed over, but for `type` beside the values of an enum."""
LENGTHS = frozenset({"minLength", "maxLength"})
TEXT = LENGTHS | {"pattern", "format"}
NUMBER = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
ARRAY = frozenset({"items", "prefixItems", "minItems", "maxItems", "unevaluatedItems"})
OBJECT = frozenset({
    "properties", "patternProperties", "additionalProperties", "propertyNames", "unevaluatedProperties", "required",
    "minProperties", "maxProperties",
})  # fmt: skip
ASSERTIONS = TEXT | NUMBER | ARRAY | OBJECT | {*WHOLE, "type"}
"""All other keywords are notes (title, default, examples, unknown ones) or hold definitions."""

NAMED = ("properties", "patternProperties", "$defs", "definitions")
LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("items", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties")
"""Keywords that hold schemas: by name, in a list, one."""


def check_schema(schema: dict[str, Any], param: str) -> None:
    """Raises TokenyardError naming the first keyword that could not be enforced."""
    left: list[tuple[Any, str, int]] = [(schema, param, 0)]
    while left:
        one, path, depth = left.pop()
        if type(one) is not dict:
            continue  # true and false are schemas; anything else the worker refuses
        if depth > MAX_DEPTH:
            invalid(path, f"is deeper than {MAX_DEPTH} levels")
        _check_keywords(one, path)
        left += [(inner, inner_path, depth + 1) for inner, inner_path in _inside(one, path)]


def _inside(schema: dict[str, Any], path: str) -> Iterator[tuple[Any, str]]:
    for key in NAMED:
        if type(schema.get(key)) is dict:
            yield from ((inner, f"{path}.{key}.{name}") for name, inner in schema[key].items())
    for key in LISTED:
        if type(schema.get(key)) is list:
            yield from ((inner, f"{path}.{key}.{index}") for index, inner in enumerate(schema[key]))
    yield from ((schema[key], f"{path}.{key}") for key in SINGLE if key in schema)


def _check_keywords(schema: dict[str, Any], path: str) -> None:
    keywords = schema.keys()
    for key in sorted(keywords & NOT_ENFORCED):
        if schema[key] is not False:  # uniqueItems: false asks for nothing
            invalid(f"{path}.{key}", "cannot be enforced")
    for key in WHOLE:
        if key in keywords:
            beside = keywords & ASSERTIONS - {key} - ({"type"} if key in ("enum", "const") else set())
            if beside:
                invalid(f"{path}.{min(beside)}", f"cannot be enforced beside {key}")
    for key in ("anyOf", "oneOf"):
        if schema.get(key) == []:
            invalid(f"{path}.{key}", "must not be empty")
    if type(schema.get("allOf")) is list and len(schema["allOf"]) > 1:
        invalid(f"{path}.allOf", "cannot be enforced with more than one schema")
    if not str(schema.get("$ref", "#")).startswith("#"):
        invalid(f"{path}.$ref", "must point into this schema: '#/...'")
    if type(schema.get("items")) is list:
        invalid(f"{path}.items", "must be one schema; prefixItems takes a list")
    if keywords & {"minItems", "maxItems"} and not keywords & {"items", "prefixItems"}:
        invalid(f"{path}.{min(keywords & ARRAY)}", "needs items beside it")
    if "type" not in keywords and (untyped := keywords & (TEXT | NUMBER)):
        invalid(f"{path}.{min(untyped)}", "needs a type beside it")
    texts = keywords & TEXT
    if len(texts) > 1 and not texts <= LENGTHS:
        invalid(f"{path}.{max(texts)}", f"cannot be enforced beside {min(texts)}")
    _check_required(schema, path)


def _check_required(schema: dict[str, Any], path: str) -> None:
    properties, required = schema.get("properties", {}), schema.get("required")
    if type(properties) is dict and type(required) is list:
        for name in required:
            if type(name) is str and name not in properties:
                invalid(f"{path}.required", f"names {name!r}, which properties does not describe")
