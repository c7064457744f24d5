"""Fixtures that several rooms' tests share."""

from collections.abc import Iterator

import pytest
from yard import Yard


@pytest.fixture(scope="session")
def server() -> Iterator[Yard]:
    """One pool on the bundled model, with one worker, for tests that kill nothing."""
    yard = Yard()
    yield yard
    yard.close()
