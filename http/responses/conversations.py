"""Kept conversations in the store: a list of items that responses go on from and add to. Calls of a Database.

Each function takes the database first, for Store.run. Knows no HTTP.
"""

import time
from typing import Any, NamedTuple

import orjson

from tokenyard.http.responses.database import Database
from tokenyard.http.responses.ids import new_id
from tokenyard.http.responses.items import Item

MAX_CONVERSATIONS = 10_000
"""As many as responses; those that were not added to for the longest time go first."""


class Conversation(NamedTuple):
    """One kept conversation."""

    id: str
    created_at: int
    metadata: dict[str, str]
    items: list[Item]

    @property
    def shown(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": self.created_at,
            "metadata": self.metadata,
        }


def create(database: Database, items: list[Item], metadata: dict[str, str]) -> Conversation:
    """Begin a conversation with these items."""
    conversation = Conversation(new_id("conv"), int(time.time()), metadata, items)
    with database.writing() as connection:
        connection.execute(
            "INSERT INTO conversations SELECT ?, ?, coalesce(max(used), 0) + 1, ? FROM conversations",
            (conversation.id, conversation.created_at, orjson.dumps(metadata)),
        )
        database.append_items(conversation.id, items)
        database.evict_conversations(MAX_CONVERSATIONS)
    return conversation


def find(database: Database, conversation_id: str) -> Conversation | None:
    """A conversation with all its items, oldest first."""
    query = "SELECT created_at, metadata FROM conversations WHERE id = ?"
    found = database.connection.execute(query, (conversation_id,)).fetchone()
    if found is None:
        return None
    query = "SELECT item FROM conversation_items WHERE conversation = ? ORDER BY number"
    rows = database.connection.execute(query, (conversation_id,)).fetchall()
    return Conversation(conversation_id, found[0], orjson.loads(found[1]), [orjson.loads(row[0]) for row in rows])


def describe(database: Database, conversation_id: str, metadata: dict[str, str]) -> None:
    """Give a conversation other metadata."""
    query = "UPDATE conversations SET metadata = ? WHERE id = ?"
    database.connection.execute(query, (orjson.dumps(metadata), conversation_id))


def add(database: Database, conversation_id: str, items: list[Item]) -> None:
    """Items that come after all others."""
    with database.writing():
        database.append_items(conversation_id, items)
        database.evict_conversations(MAX_CONVERSATIONS)


def remove_item(database: Database, conversation_id: str, item_id: str) -> None:
    query = "DELETE FROM conversation_items WHERE conversation = ? AND id = ?"
    database.connection.execute(query, (conversation_id, item_id))


def delete(database: Database, conversation_id: str) -> None:
    """Forget a conversation; the responses that were made in it stay."""
    database.connection.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,))
