"""Which kernels a model gets, and what becomes of it where they fail."""

from collections.abc import Iterator

import pytest
import torch
from engines import job_of
from pages import DEVICE

from tokenyard.broker.params import Params
from tokenyard.workers import attention, kernels, packed_step, triton_trial
from tokenyard.workers.kernels import TORCH, choose, compile_failures
from tokenyard.workers.kv import LayerShape
from tokenyard.workers.scheduler import Chunk, Plan, Sequence

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
"""Only named here: no test needs one."""
SHAPES = frozenset([LayerShape(1, 16, 16, 2)])


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    yield
    kernels._chosen.cache_clear()


def test_a_cpu_is_served_by_torch_alone() -> None:
    chosen = choose([LayerShape(1, 4, 6)], torch.float32, CPU)
    assert chosen is TORCH
    pool = chosen.make_pool([LayerShape(1, 4, 6)], 2, 16, torch.float32, CPU)
    key, value = torch.randn(2, 1, 4), torch.randn(2, 1, 6)
    pool.write(0, torch.tensor([3, 20]), key, value)
    keys, values = pool.layer(0)
    assert torch.equal(keys[[3, 20]], key)
    assert torch.equal(values[[3, 20]], value)
    sequence = Sequence(job_of(0), [5, 6], [], Params(max_tokens=1))
    sequence.blocks.append(1)
    batch = chosen.pack(Plan([], [Chunk(sequence, 0, 2)]), pool, CPU)
    assert isinstance(batch.step, attention.Step)


@pytest.mark.parametrize("shape", [LayerShape(2, 16, 16, 3), LayerShape(1, 24, 40, 1)])
def test_the_trial_runs_every_kernel(shape: LayerShape) -> None:
    triton_trial.run_all(shape, torch.float32, DEVICE)
    tried = kernels._tried([shape], torch.float32, DEVICE)
    assert tried.pack is packed_step.pack
    assert tried.decode is not None


def failures() -> list[Exception]:
    """What Triton and those under it raise."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    compilation = CompilationError.__new__(CompilationError)
    Exception.__init__(compilation, "at 1:1")
    compilation.message = "at 1:1"
    return [
        OutOfResources(300_000, 232_448, "shared memory"),
        PTXASError("ptxas: out of registers"),
        compilation,
        RuntimeError("no kernel image is available"),
        FileNotFoundError("gcc"),
        ModuleNotFoundError("No module named 'triton'"),
    ]


@pytest.mark.parametrize("failure", failures(), ids=lambda one: type(one).__name__)
def test_a_kernel_that_fails_leaves_torch(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    assert isinstance(failure, compile_failures())
    monkeypatch.setattr(triton_trial, "run_all", fail)
    assert choose(SHAPES, torch.float32, CUDA) is TORCH
    words = str(failure).partition("\n")[0]
    assert f"Triton does not work, so attention gathers keys and values, which is slower: {words}" in caplog.text
