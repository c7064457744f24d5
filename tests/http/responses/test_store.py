"""The store where its file cannot be written."""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tokenyard.broker.errors import SetupError
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


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow: what a full disk says, but for the name of the error."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_a_disk_that_is_full_at_the_start_keeps_nobody_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        store = Store(tmp_path / "db")
        with full_disk():
            await store.open()
            with pytest.raises(HttpError, match="the store of responses cannot be used"):
                await store.run(Database.totals)
        assert "cannot be used, until it can" in caplog.text
        assert await store.run(Database.totals) == (0, 0)
        await store.close()

    asyncio.run(run())


def test_a_file_that_is_no_store_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("these are no responses " * 100)
    with pytest.raises(SetupError, match="file is not a database"):
        asyncio.run(Store(tmp_path / "db").open())
