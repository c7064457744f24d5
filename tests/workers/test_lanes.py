"""Which lane runs a model: graphs where they can be recorded and are right, and no worker dies of them."""

from collections.abc import Callable

import pytest
import torch
from engines import Bench, greedy, job_of, prompt_of, run
from tape import Tape, record
from triton.runtime.errors import OutOfResources

from tokenyard.workers.engine import Engine
from tokenyard.workers.graph_lane import GraphLane
from tokenyard.workers.graphs import Recorder
from tokenyard.workers.lane import Lane
from tokenyard.workers.lanes import graphed, make_lane
from tokenyard.workers.model import EngineOptions
from tokenyard.workers.paged import PagedLane


def lane_of(bench: Bench, recorder: Recorder) -> Lane:
    return graphed(bench.loaded, PagedLane(bench.loaded), 4, recorder)


def check_serves(bench: Bench, lane: Lane) -> None:
    engine = Engine(bench.loaded, EngineOptions(max_num_seqs=4), lane)
    engine.add(job_of(0), prompt_of(20), [], greedy(10))
    bench.reference.check_greedy(prompt_of(20), run(engine)[job_of(0)].ids)


def test_a_cpu_has_no_graphs(llama: Bench) -> None:
    assert isinstance(make_lane(llama.loaded, EngineOptions()), PagedLane)


def test_what_can_be_recorded_is(llama: Bench, caplog: pytest.LogCaptureFixture) -> None:
    lane = lane_of(llama, record)
    assert isinstance(lane, GraphLane)
    assert "CUDA graphs" not in caplog.text
    check_serves(llama, lane)


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("operation not permitted when stream is capturing"), OutOfResources(9, 8, "shared memory")],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("num_before", [0, 3])
def test_what_cannot_be_recorded_runs_without_graphs(
    llama: Bench, failure: Exception, num_before: int, caplog: pytest.LogCaptureFixture
) -> None:
    recordings = []

    def refuse(work: Callable[[], None]) -> Tape:
        if len(recordings) == num_before:
            raise failure
        recordings.append(record(work))
        return recordings[-1]

    lane = lane_of(llama, refuse)
    assert isinstance(lane, PagedLane)
    assert f"no CUDA graphs: the model cannot be recorded: {failure}" in caplog.text
    check_serves(llama, lane)


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_graphs_with_other_logits_are_not_used(llama: Bench, value: float, caplog: pytest.LogCaptureFixture) -> None:
    class Falsified(Tape):
        def replay(self) -> None:
            super().replay()
            _logits(self).fill_(value)

    lane = lane_of(llama, Falsified)
    assert isinstance(lane, PagedLane)
    assert "no CUDA graphs: they give other logits" in caplog.text
    check_serves(llama, lane)


def _logits(tape: Tape) -> torch.Tensor:
    """What the recorded work wrote last."""
    logits: torch.Tensor = tape._calls[-1].args[0]
    return logits
