"""Graphs recorded while streams run: the same tokens before, meanwhile and after. A tape stands in for graphs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import BLOCK, Bench, Streams, go_on_late, greedy, job_of, prompt_of, run, run_one, save_tiny, step
from graphed import Graphed, cycle, cyclic, drawn, mixed
from loras import Lora, directory_of, hold
from reference import Reference
from tape import Tape, TapeRecorder
from yard import wait_until

from tokenyard.broker.codec import pack_ids
from tokenyard.broker.params import Params
from tokenyard.broker.wire import PLAIN, AdapterKey
from tokenyard.workers import leisure, speculation
from tokenyard.workers.desk import Add
from tokenyard.workers.engine_thread import EngineThread
from tokenyard.workers.graphs import NUM_WARM_UPS
from tokenyard.workers.leisure import Demand


def run_beside(engine: Any, streams: Streams, num_steps: int = 1) -> int:
    """Steps with a piece of the recording after each so many, to its end; how many pieces there were."""
    num_pieces = 0
    while engine.late is not None:
        for _ in range(num_steps):
            step(engine, streams)
        go_on_late(engine, streams)
        num_pieces += 1
    return num_pieces


def check_beside(graphed: Graphed, llama: Bench, jobs: dict[int, tuple[list[int], Params]]) -> None:
    """Run jobs while graphs are recorded, and to their ends: each has the tokens of the reference."""
    streams: Streams = {}
    for number, (prompt, params) in jobs.items():
        graphed.engine.add(job_of(number), prompt, [], params)
    run_beside(graphed.engine, streams)
    run(graphed.engine, streams)
    for number, (prompt, params) in jobs.items():
        llama.reference.check(prompt, streams[job_of(number)].ids, params)


def test_tokens_are_the_same_before_while_and_after(llama: Bench) -> None:
    """Blocks 0 and 1, prefixes that were cached before, and streams in flight are left alone."""
    graphed = Graphed(llama, late=True)
    assert graphed.lane.num_graphs == 0
    jobs = {number: (prompt_of(3 * BLOCK + number), drawn(number, 150)) for number in range(4)}
    streams: Streams = {}
    for number, (prompt, params) in jobs.items():
        graphed.engine.add(job_of(number), prompt, [], params)
        step(graphed.engine, streams)
    assert run_beside(graphed.engine, streams) == 1 + (NUM_WARM_UPS + 2) * graphed.lane.num_graphs + (
        NUM_WARM_UPS + 1
    ) * len(graphed.engine._sampler._graphs)  # type: ignore[attr-defined]
    assert all(len(one.ids) < 150 for one in streams.values()), "nothing is left to be drawn by graphs"
    run(graphed.engine, streams)
    for number, (prompt, params) in jobs.items():
        llama.reference.check(prompt, streams[job_of(number)].ids, params)
        again = run_one(graphed.engine, prompt, greedy(20))
        assert again.cached_tokens
        llama.reference.check_greedy(prompt, again.ids)


def test_the_largest_come_first_and_serve_small_batches(llama: Bench) -> None:
    graphed = Graphed(llama, late=True)
    streams: Streams = {}
    while graphed.lane.num_graphs < 2:
        go_on_late(graphed.engine, streams)
    (widest, second) = graphed.lane._graphs
    assert [widest[0], second[0]] == [8, 4]
    prompt = prompt_of(20 * BLOCK // 2)
    before = sum(graphed.all_replays().values())
    llama.reference.check_greedy(prompt, run_one(graphed.engine, prompt, greedy(20)).ids)
    assert graphed.all_replays()[second] >= 19
    assert sum(graphed.all_replays().values()) - before >= 19


def test_guesses_beside_it(llama: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculation, "REST", 0)
    graphed = Graphed(llama, 4, num_drafts=4, late=True)
    jobs = {number: (cycle(number), cyclic(number)._replace(max_tokens=180)) for number in range(2)}
    check_beside(graphed, llama, jobs)


def test_adapters_come_and_go_meanwhile(tmp_path: Path) -> None:
    """One is put where graphs were tried so far, as the last free shelf."""
    bench = Bench.load(save_tiny(tmp_path / "base", "llama"), max_loras=2, max_lora_rank=8)
    loras = [Lora.make(name, directory_of(bench), tmp_path / name, seed) for seed, name in enumerate("abc", 1)]
    graphed = Graphed(bench, late=True)
    engine, streams = graphed.engine, Streams()
    jobs: list[tuple[list[int], Params, Reference]] = []
    sides = [(PLAIN, bench.reference), *((lora.into(engine), lora.reference) for lora in loras[:2])]

    def add(key: AdapterKey, reference: Reference) -> None:
        jobs.append((prompt_of(20 + 7 * len(jobs)), mixed(len(jobs), 30), reference))
        engine.add(job_of(len(jobs) - 1), jobs[-1][0], [], jobs[-1][1], key)

    turn = 0
    while engine.late is not None:
        if turn == 30:
            second = AdapterKey(loras[0].key.name, "second")
            hold(engine, second, loras[2].directory)
            engine.adapters.retire(loras[0].key)
            sides[1] = second, loras[2].reference
        if turn % 7 == 0:
            add(*sides[turn // 7 % 3])
        step(engine, streams)
        go_on_late(engine, streams)
        turn += 1
    run(engine, streams)
    assert len(jobs) > 12
    for number, (prompt, params, reference) in enumerate(jobs):
        reference.check(prompt, streams[job_of(number)].ids, params)
    assert len(graphed.lane._adapted) == len(graphed.lane._graphs) == 4 * 3


def test_the_thread_serves_first_and_records_where_it_may(llama: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leisure, "HEAD_START_S", 0.3)
    graphed = Graphed(llama, late=True)
    engine, late = graphed.engine, graphed.engine.late
    assert late is not None
    demands = []

    def noted(go_on: Callable[[], bool] = late.go_on) -> bool:
        assert engine._flight is None, "tokens that are drawn are told before"
        demands.append(engine.demand)
        return go_on()

    monkeypatch.setattr(late, "go_on", noted)
    loaded: Any = (engine, None)
    thread = EngineThread(lambda _: loaded)
    thread.start()
    prompt = prompt_of(20)
    thread.put(Add(job_of(0), pack_ids(prompt), pack_ids([]), greedy(1)))
    wait_until(lambda: thread.results, "the first token")
    assert demands == [], "it waited for graphs"
    wait_until(lambda: graphed.lane.num_graphs, "a graph, without another command")
    thread.put(Add(job_of(1), pack_ids(prompt), pack_ids([]), drawn(1, 200)))
    wait_until(lambda: engine.late is None or thread.failure, "all graphs")
    assert thread.failure is None
    assert graphed.lane.num_graphs == 12
    assert {Demand.NOTHING, Demand.STREAMS} <= set(demands)


def test_demand_is_told(llama: Bench) -> None:
    engine = Graphed(llama, late=True).engine
    assert engine.demand is Demand.NOTHING
    engine.add(job_of(0), prompt_of(100), [], greedy(20))
    assert engine.demand is Demand.PROMPTS
    step(engine, streams := {})
    assert engine.demand is Demand.PROMPTS, "its prompt comes in two chunks"
    step(engine, streams)
    assert engine.demand is Demand.STREAMS
    run(engine, streams)
    assert engine.demand is Demand.NOTHING


def test_a_graph_that_fails_late_leaves_streams_alone(llama: Bench, caplog: pytest.LogCaptureFixture) -> None:
    class OutOfMemory(TapeRecorder):
        num_recorded = 0

        def __call__(self, work: Any) -> Tape:
            self.num_recorded += 1
            if self.num_recorded > 5:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20 MiB")
            return super().__call__(work)

    graphed = Graphed(llama, late=True)
    graphed.lane.recorder = OutOfMemory()
    jobs = {number: (prompt_of(20 + number), mixed(number, 100)) for number in range(3)}
    check_beside(graphed, llama, jobs)
    assert graphed.lane.num_graphs == 5
    words = "recorded 5 CUDA graphs and no more, other batches run without: the next failed: CUDA out of memory"
    assert words in caplog.text
