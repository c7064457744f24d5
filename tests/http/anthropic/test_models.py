"""The list of models as Anthropic's clients page through it."""

from typing import Any

import pytest
from anthropic.types import ModelInfo
from front import ask
from models import CARD
from scripted import ScriptedPool
from strict import validated

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.anthropic.models import page

CREATED = 1_700_000_000
ENTRIES: list[dict[str, Any]] = [{"id": name, "created": CREATED} for name in "abcde"]
VERSION = {"anthropic-version": "2023-06-01"}


def test_anthropics_clients_get_anthropics_shape_and_others_openais() -> None:
    pool = ScriptedPool(CARD._replace(names=["a"], created=CREATED))
    listed = ask(pool, "GET", "/v1/models", headers=VERSION).json()
    (model,) = listed["data"]
    validated(ModelInfo, model)
    assert (model["id"], model["created_at"], model["max_input_tokens"]) == ("a", "2023-11-14T22:13:20Z", 2048)
    assert {**listed, "data": []} == {"data": [], "has_more": False, "first_id": "a", "last_id": "a"}
    assert ask(pool, "GET", "/v1/models/a", headers=VERSION).json() == model
    assert ask(pool, "GET", "/v1/models").json()["object"] == "list"


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ({}, "abcde", False),
        ({"limit": "2"}, "ab", True),
        ({"limit": "2", "after_id": "b"}, "cd", True),
        ({"limit": "2", "after_id": "d"}, "e", False),
        ({"after_id": "e"}, "", False),
        ({"limit": "2", "before_id": "d"}, "bc", True),
        ({"limit": "2", "before_id": "b"}, "a", False),
    ],
)
def test_pages(query: dict[str, str], ids: str, more: bool) -> None:
    answer: dict[str, Any] = page(ENTRIES, query)
    for model in answer["data"]:
        validated(ModelInfo, model)
    assert ("".join(model["id"] for model in answer["data"]), answer["has_more"]) == (ids, more)
    assert (answer["first_id"], answer["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"limit": "1" * 5000}, "limit"),
        ({"after_id": "z"}, "after_id"),
        ({"after_id": "a", "before_id": "c"}, "before_id"),
    ],
)
def test_bad_queries_are_refused_by_name(query: dict[str, str], param: str) -> None:
    with pytest.raises(TokenyardError) as caught:
        page(ENTRIES, query)
    assert caught.value.param == param
