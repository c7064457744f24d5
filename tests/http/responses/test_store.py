"""The store where its file cannot be written."""

import asyncio
from pathlib import Path

import pytest

from tokenyard.http.errors import HttpError
from tokenyard.http.responses.database import Database
from tokenyard.http.responses.store import Store


def test_a_full_disk_is_told_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        store = Store(tmp_path / "db")
        await store.open()
        await store.run(lambda database: database.connection.execute("PRAGMA max_page_count = 1"))
        body = {"id": "resp_1", "status": "in_progress", "previous_response_id": None, "text": "x" * 100_000}
        with pytest.raises(HttpError, match="the store of responses cannot be used: database or disk is full") as told:
            await store.run(Database.begin, body, [], False)
        with pytest.raises(HttpError):
            await store.run(Database.begin, body, [], False)
        assert caplog.text.count("disk is full") == 1, "the rest is counted"
        assert (told.value.status, told.value.code) == (503, "store_unavailable")
        assert await store.run(Database.get, "resp_1") is None
        await store.close()

    asyncio.run(run())
