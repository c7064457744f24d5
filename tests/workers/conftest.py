"""Models that the engine's tests share."""

import pytest
import torch
from engines import FAMILIES, Bench, save_tiny

torch.set_num_threads(1)  # two contended threads make steps 10 times slower (docs/architecture.md)


@pytest.fixture(scope="session", params=FAMILIES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Each of the four families in turn."""
    return Bench.load(save_tiny(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One model, for what does not depend on the architecture."""
    return Bench.load(save_tiny(tmp_path_factory.mktemp("llama"), "llama"))
