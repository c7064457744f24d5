"""The OpenAPI document: every route is in it, its examples are what the application answers, its schemas hold them."""

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from examples import RECORDED_BY_HAND, act
from fastapi import FastAPI
from front import OPTIONS, ask, request
from jsonschema import Draft202012Validator
from models import CARD
from scripted import ScriptedPool

from tokenyard.http.app import create_app
from tokenyard.http.keys import KeyRing
from tokenyard.http.openapi.document import PATH, document, read_examples
from tokenyard.http.openapi.operations import BODIES, OPERATIONS, Operation
from tokenyard.http.openapi.schemas import of_examples
from tokenyard.http.pool import Pool

TEXTS = ("/metrics", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
"""Answers of these are no JSON; vLLM's are none."""
POSTS = [operation for operation in OPERATIONS if operation.body]


def routes(app: Any) -> set[str]:
    """Method and path of all that the application answers, as the document writes them."""
    while not isinstance(app, FastAPI):
        app = getattr(app, "app", None) or app._app
    pairs = [(method, route.path) for route in app.routes for method in route.methods - {"HEAD"}]
    return {f"{method} {path.replace(':path}', '}')}" for method, path in pairs}


def test_every_route_is_told_of() -> None:
    app = create_app(cast(Pool, ScriptedPool(CARD)), OPTIONS)
    assert [operation.key for operation in OPERATIONS] == list(dict.fromkeys(one.key for one in OPERATIONS))
    assert {operation.key for operation in OPERATIONS} == routes(app)


def test_the_document_is_served_to_everybody() -> None:
    app = create_app(cast(Pool, ScriptedPool(CARD)), replace(OPTIONS, api_keys=KeyRing(["secret"])))
    response = asyncio.run(request(app, "GET", PATH))
    assert response.json() == document()


def test_every_reference_leads_somewhere() -> None:
    told = document()
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(told)))
    assert names == told["components"]["schemas"].keys()


def test_every_schema_is_one() -> None:
    told = document()
    schemas = [*told["components"]["schemas"].values()]
    for path in told["paths"].values():
        for operation in path.values():
            schemas += [one["schema"] for one in operation["responses"]["200"]["content"].values()]
            schemas += [one["schema"] for one in operation["parameters"]]
    for schema in schemas:
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.key)
def test_every_operation_has_examples(operation: Operation) -> None:
    examples = read_examples()[operation.key]
    assert examples
    is_text = operation.streams or operation.path in TEXTS
    assert any(isinstance(one["answer"], str) for one in examples) <= is_text
    for one in examples:
        assert ("request" in one) == bool(operation.body)
        if operation.body:
            Draft202012Validator(BODIES[operation.body]).validate(one["request"])


def test_the_examples_are_what_is_answered(tmp_path: Path) -> None:
    """Each request is accepted, and its answer has the form of the one in the document."""
    recorded = read_examples()
    for key, examples in asyncio.run(act(tmp_path)).items():
        for now, then in zip(examples, recorded[key], strict=True):
            if isinstance(now["answer"], str):
                events = [re.findall(r"^event: (.*)$", one["answer"], re.MULTILINE) for one in (now, then)]
                assert events[0] == events[1]
            else:
                assert of_examples([now["answer"]]) == of_examples([then["answer"]]), key
                answer = document_schema(key)
                Draft202012Validator(answer).validate(now["answer"])
    assert set(RECORDED_BY_HAND) == {key.split(" ")[1] for key in recorded if key.split(" ")[1] in RECORDED_BY_HAND}


def document_schema(key: str) -> Any:
    method, path = key.lower().split(" ")
    told = document()["paths"][path][method]
    return told["responses"]["200"]["content"]["application/json"]["schema"]


@pytest.mark.parametrize("operation", POSTS, ids=lambda one: one.key)
def test_what_is_required_is_missed(operation: Operation) -> None:
    schema = BODIES[operation.body]
    schema = schema["anyOf"][0] if "anyOf" in schema else schema
    example = read_examples()[operation.key][0]["request"]
    pool = ScriptedPool(CARD)
    for name in schema["required"]:
        body = {key: value for key, value in example.items() if key != name}
        response = ask(pool, operation.method, operation.path, json=body)
        assert response.status_code in (400, 422)
        assert name in response.text
    assert pool.jobs == []
