"""Fixtures that several rooms' tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from yard import Yard

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on CPU; read once, when something imports triton

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("tokenyard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tokenyard")


@pytest.fixture(scope="session")
def server() -> Iterator[Yard]:
    """One pool on the bundled model, with one worker, for tests that kill nothing."""
    yard = Yard()
    yield yard
    yard.close()
