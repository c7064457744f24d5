"""What all tests of Responses share."""

import asyncio
from collections.abc import Iterator

import pytest
from desk import Desk


@pytest.fixture(autouse=True)
def _close_desks() -> Iterator[None]:
    """Every front that a test opened goes down, and its store with it."""

    async def close() -> None:
        for desk in list(Desk.opened):
            async with desk.lifespan():
                pass

    yield
    asyncio.run(close())
