"""The store's tables, in SQLite: responses with their inputs, the events of those that stream later, conversations.

Plain, blocking calls, for one thread; several processes share one file. Knows nothing of models and HTTP.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import psutil

from tokenyard.broker.errors import SetupError

BUSY_S = 5.0
"""How long a write waits for another front's, which takes well under a millisecond."""

MAX_RESPONSES = 10_000
MAX_BYTES = 256 << 20
"""Of all responses together; the oldest go first. 10,000 chats of 25 KB: some days of one busy client."""

RUNNING = ("queued", "in_progress")

VERSION = 1
"""Of the tables; a file of another is not touched."""

_SCHEMA = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE IF NOT EXISTS responses (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    status TEXT NOT NULL,
    streams INTEGER NOT NULL,      -- whether its events are kept
    owner TEXT NOT NULL,           -- the process that makes it
    previous TEXT,
    body BLOB NOT NULL,            -- the response object
    items BLOB NOT NULL,           -- its own input
    num_bytes INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY,
    response TEXT NOT NULL REFERENCES responses(id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_of ON items(response);
CREATE TABLE IF NOT EXISTS events (
    response TEXT NOT NULL REFERENCES responses(id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (response, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL,
    used INTEGER NOT NULL,         -- the higher, the later it was added to
    metadata BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS conversations_by_use ON conversations(used);
CREATE TABLE IF NOT EXISTS conversation_items (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    item BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS items_of_conversation ON conversation_items(conversation, number);
CREATE INDEX IF NOT EXISTS items_of_conversations ON conversation_items(id);

-- Kept up to date by triggers: counting would read every row at every write.
CREATE TABLE IF NOT EXISTS totals (kind TEXT PRIMARY KEY, num INTEGER NOT NULL, num_bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO totals VALUES ('responses', 0, 0), ('conversations', 0, 0);
CREATE TRIGGER IF NOT EXISTS response_added AFTER INSERT ON responses BEGIN
    UPDATE totals SET num = num + 1, num_bytes = num_bytes + new.num_bytes WHERE kind = 'responses';
END;
CREATE TRIGGER IF NOT EXISTS response_changed AFTER UPDATE OF num_bytes ON responses BEGIN
    UPDATE totals SET num_bytes = num_bytes + new.num_bytes - old.num_bytes WHERE kind = 'responses';
END;
CREATE TRIGGER IF NOT EXISTS response_removed AFTER DELETE ON responses BEGIN
    UPDATE totals SET num = num - 1, num_bytes = num_bytes - old.num_bytes WHERE kind = 'responses';
END;
CREATE TRIGGER IF NOT EXISTS conversation_added AFTER INSERT ON conversations BEGIN
    UPDATE totals SET num = num + 1 WHERE kind = 'conversations';
END;
CREATE TRIGGER IF NOT EXISTS conversation_removed AFTER DELETE ON conversations BEGIN
    UPDATE totals SET num = num - 1 WHERE kind = 'conversations';
END;
CREATE TRIGGER IF NOT EXISTS item_added AFTER INSERT ON conversation_items BEGIN
    UPDATE totals SET num_bytes = num_bytes + length(new.item) WHERE kind = 'conversations';
    UPDATE conversations SET used = (SELECT max(used) + 1 FROM conversations) WHERE id = new.conversation;
END;
CREATE TRIGGER IF NOT EXISTS item_removed AFTER DELETE ON conversation_items BEGIN
    UPDATE totals SET num_bytes = num_bytes - length(old.item) WHERE kind = 'conversations';
END;
"""


class Row(NamedTuple):
    """One kept response."""

    id: str
    status: str
    streams: bool
    owner: str
    previous: str | None
    body: dict[str, Any]
    items: list[dict[str, Any]]

    @property
    def running(self) -> bool:
        return self.status in RUNNING


def this_process() -> str:
    """Names this process as an owner; pids come round again, so its start is part of the name."""
    process = psutil.Process()
    return f"{process.pid}:{process.create_time()}"


def _lives(owner: str) -> bool:
    pid, _, began = owner.partition(":")
    try:
        return str(psutil.Process(int(pid)).create_time()) == began
    except psutil.NoSuchProcess:
        return False


class Database:
    """One process's connection."""

    def __init__(self, path: Path, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        # A front may be there before the broker, which makes the run directory otherwise.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            self._set_up(path)
        except BaseException:
            self.connection.close()
            raise

    def _set_up(self, path: Path) -> None:
        path.chmod(0o600)
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            self.connection.execute(f"PRAGMA {pragma}")
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise SetupError(f"--store {path}: another version of tokenyard made this file; choose another")
        self.connection.executescript(_SCHEMA)
        self.owner = this_process()
        self._bury_orphans()

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # a full disk may have ended it already
                self.connection.execute("ROLLBACK")
            raise

    # Responses.

    def begin(self, body: dict[str, Any], items: list[dict[str, Any]], streams: bool) -> None:
        """Keep a response that is about to be made."""
        body_data, items_data = orjson.dumps(body), orjson.dumps(items)
        with self.writing() as db:
            db.execute(
                "INSERT INTO responses (id, status, streams, owner, previous, body, items, num_bytes) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(body["id"], body["status"], streams, self.owner, body["previous_response_id"]),
                    *(body_data, items_data, len(body_data) + len(items_data)),
                ),
            )
            self._name_items(db, body["id"], items)
            self._evict(db)

    def update(self, body: dict[str, Any]) -> bool:
        """Keep how a response is now, unless it has ended already; whether it had not."""
        data = orjson.dumps(body)
        with self.writing() as db:
            changed = db.execute(
                "UPDATE responses SET status = ?, body = ?, num_bytes = num_bytes - length(body) + ? "
                "WHERE id = ? AND status IN ('queued', 'in_progress')",
                (body["status"], data, len(data), body["id"]),
            )
            if changed.rowcount:
                self._name_items(db, body["id"], body["output"])
                self._add_to_conversation(body)
                self._evict(db)
        return changed.rowcount > 0

    def get(self, response_id: str) -> Row | None:
        """A response; one whose process has died is found failed."""
        found = self.connection.execute(
            "SELECT id, status, streams, owner, previous, body, items FROM responses WHERE id = ?", (response_id,)
        ).fetchone()
        if found is None:
            return None
        response_id, status, streams, owner, previous, body, items = found
        row = Row(response_id, status, bool(streams), owner, previous, orjson.loads(body), orjson.loads(items))
        if not row.running or row.owner == self.owner or _lives(row.owner):
            return row
        self._bury(row.body)
        return self.get(response_id)

    def cancel(self, response_id: str) -> Row | None:
        """End a response that is being made; how it is then."""
        if (row := self.get(response_id)) is None:
            return None
        self.update({**row.body, "status": "cancelled"})
        return self.get(response_id)

    def delete(self, response_id: str) -> bool:
        """Forget a response with all that belongs to it; whether it was there."""
        return self.connection.execute("DELETE FROM responses WHERE id = ?", (response_id,)).rowcount > 0

    def ended(self, ids: list[str]) -> list[str]:
        """Which of these are no longer to be made: cancelled by another process, or deleted."""
        marks = ", ".join("?" * len(ids))
        query = f"SELECT id FROM responses WHERE status IN ('queued', 'in_progress') AND id IN ({marks})"
        running = {row[0] for row in self.connection.execute(query, ids)}
        return [one for one in ids if one not in running]

    def totals(self, kind: str = "responses") -> tuple[int, int]:
        """Number of responses or conversations, and their bytes."""
        query = "SELECT num, num_bytes FROM totals WHERE kind = ?"
        num, num_bytes = self.connection.execute(query, (kind,)).fetchone()
        return num, num_bytes

    def item(self, item_id: str) -> dict[str, Any] | None:
        """An item of a kept response's input or output, or of a conversation."""
        found = self.connection.execute("SELECT response FROM items WHERE id = ?", (item_id,)).fetchone()
        if found is not None and (row := self.get(found[0])) is not None:
            return next((item for item in [*row.items, *row.body["output"]] if item["id"] == item_id), None)
        found = self.connection.execute("SELECT item FROM conversation_items WHERE id = ?", (item_id,)).fetchone()
        return orjson.loads(found[0]) if found else None

    # Events.

    def add_events(self, response_id: str, events: list[tuple[int, bytes]]) -> None:
        """Keep more events of a response that streams, each with its sequence_number."""
        size = sum(len(data) for _, data in events)
        with self.writing() as db:
            there = db.execute("UPDATE responses SET num_bytes = num_bytes + ? WHERE id = ?", (size, response_id))
            if there.rowcount:
                rows = [(response_id, number, data) for number, data in events]
                db.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)

    def events(self, response_id: str, after: int) -> list[tuple[int, bytes]]:
        """The events that follow the one of this number."""
        query = "SELECT number, data FROM events WHERE response = ? AND number > ? ORDER BY number"
        return self.connection.execute(query, (response_id, after)).fetchall()

    def last_event(self, response_id: str) -> bytes | None:
        query = "SELECT data FROM events WHERE response = ? ORDER BY number DESC LIMIT 1"
        found = self.connection.execute(query, (response_id,)).fetchone()
        return found[0] if found else None

    # Conversations, as far as responses touch them; the rest is in conversations.py.

    def append_items(self, conversation_id: str, items: list[dict[str, Any]]) -> None:
        """Add to a conversation that is there. Within a transaction."""
        rows = [(conversation_id, item["id"], orjson.dumps(item)) for item in items]
        self.connection.executemany("INSERT INTO conversation_items (conversation, id, item) VALUES (?, ?, ?)", rows)

    def evict_conversations(self, max_conversations: int) -> None:
        """Forget those that nothing was added to for the longest time. Within a transaction."""
        stalest = "DELETE FROM conversations WHERE id = (SELECT id FROM conversations ORDER BY used LIMIT 1)"
        while True:
            num, num_bytes = self.totals("conversations")
            if num <= max_conversations and num_bytes <= self._max_bytes:
                return
            self.connection.execute(stalest)

    def _add_to_conversation(self, body: dict[str, Any]) -> None:
        """What was asked and answered goes on a conversation, once it is whole."""
        conversation = body.get("conversation")
        if not conversation or body["status"] not in ("completed", "incomplete"):
            return
        there = self.connection.execute("SELECT 1 FROM conversations WHERE id = ?", (conversation["id"],)).fetchone()
        if there:
            query = "SELECT items FROM responses WHERE id = ?"
            (items,) = self.connection.execute(query, (body["id"],)).fetchone()
            self.append_items(conversation["id"], [*orjson.loads(items), *body["output"]])

    # Inside.

    def _name_items(self, db: sqlite3.Connection, response_id: str, items: list[dict[str, Any]]) -> None:
        db.executemany("INSERT OR REPLACE INTO items VALUES (?, ?)", [(item["id"], response_id) for item in items])

    def _evict(self, db: sqlite3.Connection) -> None:
        """Forget the oldest until all is within bounds; what runs stays."""
        while True:
            num_responses, num_bytes = self.totals()
            if num_responses <= self._max_responses and num_bytes <= self._max_bytes:
                return
            oldest = (
                "DELETE FROM responses WHERE number = (SELECT number FROM responses "
                "WHERE status NOT IN ('queued', 'in_progress') ORDER BY number LIMIT 1)"
            )
            if not db.execute(oldest).rowcount:
                return

    def _bury_orphans(self) -> None:
        """Responses whose process died while it made them have failed."""
        query = "SELECT owner, body FROM responses WHERE status IN ('queued', 'in_progress')"
        for owner, body in self.connection.execute(query).fetchall():
            if not _lives(owner):
                self._bury(orjson.loads(body))

    def _bury(self, body: dict[str, Any]) -> None:
        error = {"code": "server_error", "message": "the server process that made this response has ended"}
        self.update({**body, "status": "failed", "error": error})
