"""Lists of items in pages, as OpenAI's list endpoints have them."""

from typing import Any

from starlette.datastructures import QueryParams

from tokenyard.http.checks import whole_number
from tokenyard.http.errors import invalid
from tokenyard.http.responses.items import Item

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
"""OpenAI's."""


def page(items: list[Item], query: QueryParams, order: str = "desc") -> dict[str, Any]:
    """The page that the query asks for: `order` (asc: oldest first), `after` an item's id, `limit`."""
    order = query.get("order", order)
    if order not in ("asc", "desc"):
        invalid("order", "must be 'asc' or 'desc'")
    if order == "desc":
        items = items[::-1]
    if (after := query.get("after")) is not None:
        places = [index for index, item in enumerate(items) if item["id"] == after]
        if not places:
            invalid("after", f"names {after[:80]!r}, which is not in the list")
        items = items[places[0] + 1 :]
    limit = whole_number(query, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
    data = items[:limit]
    return {
        "object": "list",
        "data": data,
        # Not null where the list is empty: the SDK's type has a string.
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
        "has_more": len(items) > limit,
    }


def flag(query: QueryParams, name: str) -> bool:
    """A query's boolean, as OpenAI's SDKs spell it."""
    raw = query.get(name, "false").lower()
    if raw not in ("true", "false"):
        invalid(name, f"must be true or false, not {raw[:40]!r}")
    return raw == "true"
