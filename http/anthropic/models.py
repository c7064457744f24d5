"""GET /v1/models as Anthropic's clients read it; they are known by their `anthropic-version` header."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tokenyard.http.checks import whole_number
from tokenyard.http.errors import invalid
from tokenyard.http.models import Entry

DEFAULT_LIMIT, MAX_LIMIT = 20, 1000
"""Anthropic's."""


def is_anthropic(headers: Mapping[str, str]) -> bool:
    return "anthropic-version" in headers


def model(entry: Entry) -> dict[str, Any]:
    """Anthropic's model object; of a model that was never up it is not known how much it takes."""
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry["id"],
        "created_at": datetime.fromtimestamp(entry["created"], UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": entry.get("context_length"),
        "max_tokens": entry.get("context_length"),
    }


def page(entries: list[Entry], query: Mapping[str, str]) -> dict[str, Any]:
    """One page of the models, after or before the one that the query names."""
    models = [model(entry) for entry in entries]
    ids = [one["id"] for one in models]
    limit = whole_number(query, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
    if "before_id" in query:
        if "after_id" in query:
            invalid("before_id", "does not go with after_id")
        end = _position(ids, query["before_id"], "before_id")
        shown, more = models[max(0, end - limit) : end], end > limit
    else:
        begin = _position(ids, query["after_id"], "after_id") + 1 if "after_id" in query else 0
        shown, more = models[begin : begin + limit], begin + limit < len(models)
    return {
        "data": shown,
        "has_more": more,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }


def _position(ids: list[str], name: str, param: str) -> int:
    if name not in ids:
        invalid(param, "must be the id of a model")
    return ids.index(name)
