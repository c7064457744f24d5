"""Models that the engine's tests share."""

from collections.abc import Iterator

import pytest
import torch
from engines import FAMILIES, Bench, save_tiny

torch.set_num_threads(1)  # of two that contend, each waits for the other (docs/performance.md, "Threads")


@pytest.fixture(scope="session", params=FAMILIES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Each of the four families in turn."""
    return Bench.load(save_tiny(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One model, for what does not depend on the architecture."""
    return Bench.load(save_tiny(tmp_path_factory.mktemp("llama"), "llama"))


@pytest.fixture(autouse=True, scope="session")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test's models are found to be is kept away from the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENYARD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
