"""Whatever a client sends, as the document has it or not: no answer is a 500, and each refusal has its shape."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import schemathesis
from examples import plays
from front import OPTIONS, request, typed_events
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from models import CARD
from schemathesis import GenerationMode
from scripted import ScriptedPool

from tokenyard.http.app import create_app
from tokenyard.http.openapi.document import ERRORS, document
from tokenyard.http.openapi.operations import OPERATIONS, Operation
from tokenyard.http.pool import Pool

MODEL = CARD.names[0]
ANSWER_S = 10.0
"""Bound on one answer: nothing that is made up here is large."""
NUM_EXAMPLES = int(os.environ.get("TOKENYARD_EXAMPLES", "5"))
"""Of each operation and mode. More, and others each time, are for scripts/fuzz.sh."""


def narrowed() -> dict[str, Any]:
    """The document for a server that has one model and knows one id of each kind: made-up ones end in a 404 each."""
    told = document()
    for body in told["components"]["schemas"].values():
        for schema in (body, *body.get("anyOf", ())):
            if "model" in schema.get("properties", {}):
                schema["properties"]["model"] = {"enum": [MODEL]}
    for path in told["paths"].values():
        for operation in path.values():
            for parameter in operation["parameters"]:
                if parameter["in"] == "path":
                    parameter["schema"] = {"enum": ["known", "unknown"]}
    return told


API = schemathesis.openapi.from_dict(narrowed())


def whole(value: Any) -> Any:
    """Numbers like 1.0 as integers: JSON Schema calls both so, and ours is a refusal that would hide all others."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: whole(one) for key, one in value.items()}
    return [whole(one) for one in value] if isinstance(value, list) else value


class Caller:
    """Sends made-up requests to one application."""

    def __init__(self, store: Path) -> None:
        self._pool = ScriptedPool(CARD)
        self._pool.play = plays("Hello!")
        self._app = create_app(cast(Pool, self._pool), replace(OPTIONS, store=str(store)))
        self._loop = asyncio.new_event_loop()
        self._known: dict[str, str] = {"name": MODEL}

    def meet(self) -> None:
        """Make what a path can name."""
        message = {"role": "user", "content": "hi"}
        response = self._post("/v1/responses", {"model": MODEL, "input": "hi", "background": True, "stream": True})
        conversation = self._post("/v1/conversations", {"items": [message]}).json()
        items = self._post(f"/v1/conversations/{conversation['id']}/items", {"items": [message]}).json()["data"]
        self._known["response_id"] = typed_events(response)[0]["response"]["id"]
        self._known |= {"conversation_id": conversation["id"], "item_id": items[0]["id"]}

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self._loop.run_until_complete(request(self._app, "POST", path, json=body))

    def send(self, case: Any) -> httpx.Response:
        for name, value in case.path_parameters.items():
            case.path_parameters[name] = self._known[name] if value == "known" else value
        case.body = whole(case.body)
        self._pool.jobs.clear()
        given = case.as_transport_kwargs(base_url="http://front")
        given.pop("cookies")
        if "data" in given:  # as the library requests has it
            given["content"] = given.pop("data")
        asked = request(self._app, given.pop("method"), given.pop("url"), **given)
        return self._loop.run_until_complete(asyncio.wait_for(asked, ANSWER_S))

    def close(self) -> None:
        self._loop.close()


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    caller = Caller(tmp_path_factory.mktemp("store") / "responses.db")
    yield caller
    caller.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        *((one, GenerationMode.POSITIVE) for one in OPERATIONS),
        *((one, GenerationMode.NEGATIVE) for one in OPERATIONS if one.body or one.query),
    ],
    ids=lambda value: getattr(value, "key", None) or value.value,
)
def test_nothing_is_a_server_error(operation: Operation, mode: GenerationMode, caller: Caller) -> None:
    caller.meet()

    @settings(max_examples=NUM_EXAMPLES, derandomize="TOKENYARD_EXAMPLES" not in os.environ)
    @given(API[operation.path][operation.method].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        response = caller.send(case)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            refusal(operation, response)

    check()


def refusal(operation: Operation, response: httpx.Response) -> None:
    """Its body is as the document says."""
    told = API.raw_schema["paths"][operation.path][operation.method.lower()]["responses"]["4XX"]
    name = told["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    Draft202012Validator(ERRORS[name]).validate(response.json())
