"""The store as the front uses it: every call to the database goes to one thread, so that the event loop never waits.

Knows items and responses, not HTTP.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from tokenyard.broker.errors import SetupError, TokenyardError
from tokenyard.broker.logs import Complaints
from tokenyard.http.errors import HttpError, invalid
from tokenyard.http.responses import conversations
from tokenyard.http.responses.database import Database, Row
from tokenyard.http.responses.items import Item

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

COMPLAIN_S = 10.0
"""Between two log lines about a store that fails: background.py asks it four times a second."""
SETTLE_S = 2.0
"""A previous response that is still being made may take so long to end: its client has seen the end already, and what
is missing is one write, perhaps in another front."""
SETTLE_POLL_S = 0.01

PRIMARY_CODE = 0xFF
"""Of SQLite's error codes, which tell more above."""
PASSING = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)

MAX_CHAIN = 1000
"""Responses that one may go on from: each has its own prompt tokens, and no context holds so many turns."""


class Store:
    """Opened at the first use. `path` None: nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "store")
        self._database: Database | None = None
        self._complaints = Complaints(log, COMPLAIN_S)

    @property
    def on(self) -> bool:
        return self._path is not None

    async def open(self) -> None:
        """Mark what an earlier process left unfinished. Raises SetupError where the file cannot be used.

        A disk that is full may have room later: all else must go on meanwhile, above all where a front is restarted.
        """
        if not self.on:
            return
        try:
            await asyncio.wrap_future(self.post(Database.totals))
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE not in PASSING:
                raise SetupError(f"--store {self._path}: {error}") from error
            log.error("the store of responses cannot be used, until it can: %s", error)

    async def close(self) -> None:
        if self._database is not None:
            await self.run(Database.close)
        self._thread.shutdown()

    def post(self, ask: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Ask the database, in turn, without waiting for it."""

        def call() -> T:
            if self._database is None:
                assert self._path is not None
                self._database = Database(self._path)
            return ask(self._database, *args, **kwargs)

        return self._thread.submit(call)

    def tell(self, ask: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have the database write, in turn; the log says where it cannot."""
        self.post(ask, *args, **kwargs).add_done_callback(self._look_at)

    async def run(self, ask: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Ask the database. Raises HttpError where its file cannot be used: the disk is full, say."""
        try:
            return await asyncio.wrap_future(self.post(ask, *args, **kwargs))
        except sqlite3.OperationalError as error:
            words = f"the store of responses cannot be used: {error}"
            self._complaints.say(words, time.monotonic())
            words += "; with store: false nothing is kept"
            raise HttpError(503, "store_unavailable", words, "service_unavailable") from error

    def _look_at(self, writing: "Future[Any]") -> None:
        if (error := writing.exception()) is not None:
            self._complaints.say(f"the store of responses cannot be written: {error}", time.monotonic())

    async def history(self, response_id: str) -> list[Item]:
        """The conversation that ends with this response. Raises TokenyardError where any of it is not there."""
        rows: list[Row] = []
        previous: str | None = response_id
        while previous is not None:
            if len(rows) == MAX_CHAIN:
                invalid("previous_response_id", f"has more than {MAX_CHAIN} responses before it")
            row = await self._settled(previous)
            if row is None:
                where = "is not known" if previous == response_id else f"goes back to {previous!r}, which is gone"
                invalid(
                    "previous_response_id", f"{where}: it was never stored, was deleted, or made room for newer ones"
                )
            if row.running:
                invalid("previous_response_id", "names a response that is still being made")
            rows.append(row)
            previous = row.previous
        return [item for row in reversed(rows) for item in (*row.items, *row.body["output"])]

    async def conversation(self, conversation_id: str) -> list[Item]:
        """The items of a kept conversation. Raises TokenyardError where there is none."""
        found = await self.run(conversations.find, conversation_id)
        if found is None:
            invalid("conversation", f"{conversation_id!r} is not known: POST /v1/conversations makes one")
        return found.items

    async def _settled(self, response_id: str) -> Row | None:
        """A response, after it has ended where it is about to."""
        row = await self.run(Database.get, response_id)
        end = asyncio.get_running_loop().time() + SETTLE_S
        while row is not None and row.running and not row.body["background"]:
            if asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(SETTLE_POLL_S)
            row = await self.run(Database.get, response_id)
        return row

    async def resolve(self, items: list[Item]) -> list[Item]:
        """The items with what they refer to in the place of references."""
        return [await self._referred(item) if item["type"] == "item_reference" else item for item in items]

    async def _referred(self, reference: Item) -> Item:
        found = await self.run(Database.item, reference["id"]) if self.on else None
        if found is None:
            invalid(reference["param"], f"names {reference['id']!r}, which is not among the stored items")
        return found


class Record:
    """One response on its way into the store."""

    def __init__(self, store: Store, response_id: str) -> None:
        self._store = store
        self._id = response_id

    def end(self, response: dict[str, Any]) -> None:
        """It has ended as it is now."""
        self._store.tell(Database.update, response)

    def drop(self) -> None:
        """Its client got an error instead."""
        self._store.tell(Database.delete, self._id)


def unstored(param: str) -> TokenyardError:
    """Why a field that needs the store is refused."""
    return TokenyardError("invalid_value", f"{param} needs a store, and this server has none (--store off)", param)
