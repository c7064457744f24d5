"""Fixtures that several rooms' tests share."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from yard import Yard

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("tokenyard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tokenyard")


@pytest.fixture(scope="session")
def server() -> Iterator[Yard]:
    """One pool on the bundled model, with one worker, for tests that kill nothing."""
    yard = Yard()
    yield yard
    yard.close()
