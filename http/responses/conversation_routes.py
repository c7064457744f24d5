"""/v1/conversations: what keeps a conversation's items for the responses that name it."""

from typing import Any

from fastapi import FastAPI, Request

from tokenyard.http.bodies import read_body
from tokenyard.http.checks import array, described, instance
from tokenyard.http.errors import HttpError, invalid
from tokenyard.http.fields import Field, read, refused_unless
from tokenyard.http.responses import conversations
from tokenyard.http.responses.conversations import Conversation
from tokenyard.http.responses.fields import metadata
from tokenyard.http.responses.items import Item, read_item
from tokenyard.http.responses.listing import page
from tokenyard.http.responses.store import Store
from tokenyard.http.shapes import ITEM

MAX_ITEMS = 20
"""OpenAI's limit of items that are added at once."""


_objects = array(instance(dict, words="an object"), high=MAX_ITEMS)


@described({**_objects.schema, "items": ITEM})
def _items(value: Any, param: str) -> list[Item]:
    raw = _objects(value, param)
    items = [read_item(item, f"{param}.{index}") for index, item in enumerate(raw)]
    for item in items:
        if item["type"] == "item_reference":
            invalid(item["param"], "refers to another item: add that item itself")
    return items


BODY = {"items": Field(_items), "metadata": Field(metadata)}
"""Of a new conversation; of a later change, one of the two."""
CHANGE = {**BODY, "items": refused_unless([], why="are added by POST /v1/conversations/{id}/items")}
ADDITION = {**BODY, "metadata": refused_unless({}, why="is changed by POST /v1/conversations/{id}")}


def _change(body: dict[str, Any]) -> dict[str, str]:
    if "metadata" not in body:
        invalid("metadata", "is required; null takes all of it away")
    wanted: dict[str, str] = read(body, CHANGE).get("metadata", {})
    return wanted


def add_conversation_routes(api: FastAPI, store: Store) -> None:
    async def find(conversation_id: str) -> Conversation:
        found = await store.run(conversations.find, conversation_id) if store.on else None
        if found is None:
            raise HttpError(404, "not_found", f"there is no conversation {conversation_id[:80]!r}")
        return found

    @api.post("/v1/conversations")
    async def create(http: Request) -> dict[str, Any]:
        if not store.on:
            raise HttpError(400, "invalid_value", "this server keeps no conversations (--store off)")
        values = await read_body(http, lambda body: read(body, BODY)) if await http.body() else {}
        made = await store.run(conversations.create, values.get("items", []), values.get("metadata", {}))
        return made.shown

    @api.get("/v1/conversations/{conversation_id}")
    async def get(conversation_id: str) -> dict[str, Any]:
        return (await find(conversation_id)).shown

    @api.post("/v1/conversations/{conversation_id}")
    async def update(conversation_id: str, http: Request) -> dict[str, Any]:
        await find(conversation_id)
        await store.run(conversations.describe, conversation_id, await read_body(http, _change))
        return (await find(conversation_id)).shown

    @api.delete("/v1/conversations/{conversation_id}")
    async def delete(conversation_id: str) -> dict[str, Any]:
        await find(conversation_id)
        await store.run(conversations.delete, conversation_id)
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    @api.post("/v1/conversations/{conversation_id}/items")
    async def add_items(conversation_id: str, http: Request) -> dict[str, Any]:
        await find(conversation_id)
        items = (await read_body(http, lambda body: read(body, ADDITION, "items")))["items"]
        if not items:
            invalid("items", "must not be empty")
        await store.run(conversations.add, conversation_id, items)
        return page(items, http.query_params, order="asc")

    @api.get("/v1/conversations/{conversation_id}/items")
    async def list_items(conversation_id: str, http: Request) -> dict[str, Any]:
        return page((await find(conversation_id)).items, http.query_params)

    @api.get("/v1/conversations/{conversation_id}/items/{item_id}")
    async def get_item(conversation_id: str, item_id: str) -> Item:
        return _pick(await find(conversation_id), item_id)

    @api.delete("/v1/conversations/{conversation_id}/items/{item_id}")
    async def delete_item(conversation_id: str, item_id: str) -> dict[str, Any]:
        conversation = await find(conversation_id)
        _pick(conversation, item_id)
        await store.run(conversations.remove_item, conversation_id, item_id)
        return conversation.shown


def _pick(conversation: Conversation, item_id: str) -> Item:
    for item in conversation.items:
        if item["id"] == item_id:
            return item
    raise HttpError(404, "not_found", f"there is no item {item_id[:80]!r} in {conversation.id!r}")
