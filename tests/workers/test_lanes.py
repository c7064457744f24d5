"""Which lane runs a model: graphs where they can be recorded and are right, and no worker dies of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engines import Bench, greedy, job_of, prompt_of, run
from tape import Tape, TapeRecorder, record
from triton.runtime.errors import OutOfResources

from tokenyard.workers.engine import Engine
from tokenyard.workers.graph_lane import GraphLane
from tokenyard.workers.graphs import Recorder
from tokenyard.workers.lanes import graphed, make_lane
from tokenyard.workers.model import EngineOptions
from tokenyard.workers.paged import PagedLane


def engine_of(bench: Bench, recorder: Recorder, **options: Any) -> tuple[Engine, GraphLane]:
    lane = graphed(bench.loaded, PagedLane(bench.loaded), 4, recorder)
    return Engine(bench.loaded, EngineOptions(max_num_seqs=4, **options), lane), lane


def check_serves(bench: Bench, engine: Engine) -> None:
    engine.add(job_of(0), prompt_of(20), [], greedy(10))
    bench.reference.check_greedy(prompt_of(20), run(engine)[job_of(0)].ids)


def test_a_cpu_has_no_graphs(llama: Bench) -> None:
    assert isinstance(make_lane(llama.loaded, EngineOptions()), PagedLane)


def test_what_can_be_recorded_is(llama: Bench, caplog: pytest.LogCaptureFixture) -> None:
    engine, lane = engine_of(llama, record)
    assert lane.num_graphs
    assert "CUDA graphs" not in caplog.text
    check_serves(llama, engine)


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("operation not permitted when stream is capturing"), OutOfResources(9, 8, "shared memory")],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("num_before", [0, 3])
@pytest.mark.parametrize("late", [False, True])
def test_what_cannot_be_recorded_runs_without_graphs(
    llama: Bench, failure: Exception, num_before: int, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(TapeRecorder):
        num_recorded = 0

        def __call__(self, work: Callable[[], None]) -> Tape:
            if self.num_recorded == num_before:
                raise failure
            self.num_recorded += 1
            return super().__call__(work)

    engine, lane = engine_of(llama, Refusing(), late=late)
    if engine.late is not None:
        while engine.late.go_on():
            check_serves(llama, engine)
    assert f"recorded {num_before} CUDA graphs and no more, other batches run without: the next failed" in caplog.text
    assert caplog.messages[-1].endswith(str(failure))
    assert lane.num_graphs == num_before
    check_serves(llama, engine)


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_graphs_with_other_logits_are_not_used(llama: Bench, value: float, caplog: pytest.LogCaptureFixture) -> None:
    class Falsified(Tape):
        def replay(self) -> None:
            super().replay()
            _logits(self).fill_(value)

    class Falsifying(TapeRecorder):
        def __call__(self, work: Callable[[], None]) -> Tape:
            return Falsified(work)

    engine, lane = engine_of(llama, Falsifying())
    assert not lane.num_graphs
    assert "recorded 0 CUDA graphs and no more" in caplog.text
    assert "it gives other logits" in caplog.text
    check_serves(llama, engine)


def _logits(tape: Tape) -> torch.Tensor:
    """What the recorded work wrote last."""
    logits: torch.Tensor = tape._calls[-1].args[0]
    return logits
