"""GET /openapi.json: the API in OpenAPI 3.1. Requests are described by the checks that they must pass, answers by
examples that a test records from the application itself.
"""

import json
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.responses import Response

from tokenyard.http.checks import Schema
from tokenyard.http.openapi.operations import BODIES, OPERATIONS, Operation
from tokenyard.http.openapi.schemas import of_examples
from tokenyard.http.service import Service

PATH = "/openapi.json"

EXAMPLES = "examples.json"
"""By method and path, a list of objects: `request` (a body), `query`, and `answer` (a body, or a stream's text)."""

Examples = dict[str, list[dict[str, Any]]]

_TEXT: Schema = {"type": "string"}
_OPENAI: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"], "description": "The field at fault, as a dotted path."},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ERRORS: dict[str, Schema] = {
    "Error": _OPENAI,
    "AnthropicError": {
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": _TEXT, "message": _TEXT},
            },
        },
    },
    "TgiError": {
        "type": "object",
        "required": ["error", "error_type"],
        "properties": {"error": _TEXT, "error_type": _TEXT},
    },
    "Detail": {"type": "object", "required": ["detail"], "properties": {"detail": {"type": ["string", "array"]}}},
}
"""Bodies of refusals and failures; every path has one of them."""


def add_routes(api: FastAPI, service: Service) -> None:
    @api.get(PATH)
    async def openapi() -> Response:
        return Response(_written(), media_type="application/json")


@cache
def _written() -> bytes:
    """Made once, when somebody asks: it takes some milliseconds."""
    return orjson.dumps(document())


def read_examples() -> Examples:
    found: Examples = json.loads(Path(__file__).with_name(EXAMPLES).read_text())
    return found


def document() -> dict[str, Any]:
    """The whole document."""
    examples = read_examples()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        own = examples.get(operation.key, [])
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, own)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tokenyard",
            "version": version("tokenyard"),
            "description": "Fields that are not named here are accepted; null means absent. See docs/api.md.",
        },
        "paths": paths,
        "components": {
            "schemas": BODIES | ERRORS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"x-api-key": []}],
    }


def _operation(operation: Operation, examples: list[dict[str, Any]]) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", operation.path)
    told: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": re.sub(r"\W+", "_", operation.key.lower()).strip("_"),
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names),
            *({"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()),
        ],
        "responses": {"200": _answer(operation, examples), "4XX": _failure(operation), "5XX": _failure(operation)},
    }
    if operation.body:
        content = {
            "schema": {"$ref": f"#/components/schemas/{operation.body}"},
            "examples": _numbered([one["request"] for one in examples]),
        }
        told["requestBody"] = {"required": True, "content": {"application/json": content}}
    return told


def _answer(operation: Operation, examples: list[dict[str, Any]]) -> dict[str, Any]:
    """What comes of a request that is not refused."""
    content: dict[str, Any] = {}
    whole = [one["answer"] for one in examples if not isinstance(one["answer"], str)]
    if whole:
        content["application/json"] = {
            "schema": of_examples(whole),
            "examples": _numbered(whole),
        }
    if texts := [one["answer"] for one in examples if isinstance(one["answer"], str)]:
        kind = "text/event-stream" if operation.streams else "text/plain"
        content[kind] = {"schema": _TEXT, "examples": _numbered(texts)}
    return {"description": operation.summary, "content": content}


def _numbered(values: list[Any]) -> dict[str, Any]:
    return {f"example{number}": {"value": value} for number, value in enumerate(values, 1)}


def _failure(operation: Operation) -> dict[str, Any]:
    shapes = {"/v1/messages": "AnthropicError", "/generate": "TgiError", "/v1/systemone": "Detail"}
    name = next((name for start, name in shapes.items() if operation.path.startswith(start)), "Error")
    name = "TgiError" if operation.path == "/" else name
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": "A refusal or a failure", "content": {"application/json": {"schema": schema}}}
