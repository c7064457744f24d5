"""What only a GPU can show: real graphs and real kernels give eager's tokens, and no draw waits for the device.

Everywhere else a tape stands in for graphs (test_graph_lane.py), and Triton's interpreter for its compiler.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engines import BLOCK, Bench, Streams, go_on_late, job_of, prompt_of, run, save_tiny, step
from reference import Reference

from tokenyard.broker.params import Params
from tokenyard.broker.spec import ModelSpec
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers import paged
from tokenyard.workers.engine import Engine
from tokenyard.workers.grammars import Allowed
from tokenyard.workers.graph_lane import GraphLane
from tokenyard.workers.kernels import TORCH
from tokenyard.workers.model import EngineOptions, load_model
from tokenyard.workers.sampler import Sampler
from tokenyard.workers.scheduler import Sequence
from tokenyard.workers.triton_tiles import tile_size

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CONTEXT = 1024
TILE = tile_size(16, 4)
OPTIONS = EngineOptions(block_size=BLOCK, max_num_seqs=8, max_batch_tokens=256, kv_memory="256MiB")
NUM_TOKENS = 8
OTHERS_LEAVE = 1 << 30
"""For eager steps, and for what the driver keeps of each graph."""
BORDERS = [BLOCK, TILE, 2 * TILE, 5 * TILE, 16 * TILE - BLOCK, 900]
"""Lengths that sequences grow over: of a block, of tiles, of splits (each some whole tiles, more with the length)."""


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma2"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Plain attention, a window, and a softcap beside a window."""
    directory = tmp_path_factory.mktemp(request.param)
    save_tiny(directory, request.param, max_position_embeddings=CONTEXT, head_dim=16)
    return load(directory)


def load(directory: Path) -> Bench:
    return Bench(load_model(ModelSpec(str(directory)), "cuda", "float32", OPTIONS), Reference(directory))


@pytest.fixture(params=["triton", "gathered"])
def graphed(request: pytest.FixtureRequest, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """With our own kernels, and as where nothing can compile them."""
    if request.param == "gathered":
        monkeypatch.setattr(paged, "choose", lambda *_: TORCH)
    engine = Engine(bench.loaded, OPTIONS)
    assert isinstance(engine._lane, GraphLane)
    assert len(engine._lane._graphs) >= len(engine._lane.buckets), "graphs were refused: the log says why"
    assert (engine._lane._paged.kernels is TORCH) == (request.param == "gathered")
    return engine


def params_of(number: int) -> Params:
    """Drawn by the sampler's graphs, and by the eager one."""
    return Params(
        max_tokens=NUM_TOKENS,
        temperature=(0.0, 0.8)[number % 2],
        top_k=(0, 20)[number // 2 % 2],
        repetition_penalty=(1.0, 1.2)[number % 5 == 4],
        seed=number,
    )


def batches(engine: Engine) -> Iterator[tuple[dict[int, tuple[list[int], Params]], Streams]]:
    """One batch for each bucket and some between, at each border."""
    for border in BORDERS:
        for count in (1, 2, 3, 5, 8):
            jobs = {row: (prompt_of(border - 1 - row % 4, salt=row), params_of(row)) for row in range(count)}
            for row, (prompt, params) in jobs.items():
                engine.add(job_of(row), prompt, [], params)
            yield jobs, run(engine)


def test_graphs_are_eager_across_every_border(bench: Bench, graphed: Engine) -> None:
    eager = Engine(bench.loaded, OPTIONS._replace(eager=True))
    for (jobs, found), (_, wanted) in zip(batches(graphed), batches(eager), strict=True):
        for row, (prompt, params) in jobs.items():
            bench.reference.check(prompt, found[job_of(row)].ids, params)
            if found[job_of(row)].ids != wanted[job_of(row)].ids:
                bench.reference.check(prompt, wanted[job_of(row)].ids, params)  # a near-tie, then


def test_a_late_graph_still_reads_what_was_written_last(bench: Bench, graphed: Engine) -> None:
    """The largest batch at the longest context, after every other graph was replayed."""
    for _ in batches(graphed):
        pass
    jobs = {row: (prompt_of(CONTEXT - 40 - row, salt=9), params_of(row)._replace(max_tokens=32)) for row in range(8)}
    for row, (prompt, params) in jobs.items():
        graphed.add(job_of(row), prompt, [], params)
    for key, stream in run(graphed).items():
        prompt, params = jobs[key.job]
        bench.reference.check(prompt, stream.ids, params)
        assert len(stream.ids) == 32


def test_speculation_beside_graphs(bench: Bench) -> None:
    options = OPTIONS._replace(num_drafts=4)
    engine = Engine(bench.loaded, options)
    params = Params(max_tokens=60, temperature=0.0, logit_bias=dict.fromkeys(range(4), 30.0))
    jobs = {row: (prompt_of(12, salt=row) * 4, params if row % 2 else params_of(row)) for row in range(6)}
    for row, (prompt, one) in jobs.items():
        engine.add(job_of(row), prompt, [], one)
    for key, stream in run(engine).items():
        bench.reference.check(jobs[key.job][0], stream.ids, jobs[key.job][1])
    assert engine.load()["confirmed"] > 10


def test_graphs_come_while_streams_run(bench: Bench) -> None:
    """Piece by piece, in the memory that was reserved: another takes nearly all the rest meanwhile."""
    assert bench.loaded.graph_bytes > 0
    engine = Engine(bench.loaded, OPTIONS._replace(late=True))
    assert isinstance(engine._lane, GraphLane)
    assert engine._lane.num_graphs == 0
    torch.cuda.empty_cache()
    others = torch.empty(torch.cuda.mem_get_info()[0] - OTHERS_LEAVE, dtype=torch.uint8, device="cuda")
    reserved = torch.cuda.memory_reserved()
    jobs = {row: (prompt_of(3 * BLOCK + row, salt=7), params_of(row)._replace(max_tokens=200)) for row in range(8)}
    streams: Streams = {}
    for row, (prompt, params) in jobs.items():
        engine.add(job_of(row), prompt, [], params)
    while engine.late is not None:
        step(engine, streams)
        go_on_late(engine, streams)
    assert engine._lane.num_graphs == len(engine._lane.buckets) * len(engine._lane._widths)
    assert torch.cuda.memory_reserved() - reserved < OTHERS_LEAVE
    del others
    for row, (prompt, params) in jobs.items():
        engine.add(job_of(100 + row), prompt, [], params)
    run(engine, streams)
    for row, (prompt, params) in jobs.items():
        for key in (job_of(row), job_of(100 + row)):
            bench.reference.check(prompt, streams[key].ids, params)


def test_no_draw_waits_for_the_device() -> None:
    device = torch.device("cuda")
    vocab_size = 301
    sampler = Sampler(vocab_size, device)
    kinds = [
        Params(99, temperature=0.7, top_k=20, min_p=0.1),
        Params(99, temperature=0.0, logit_bias={3: 2.0}),
        Params(99, temperature=0.5, min_tokens=3, stop_token_ids=[1, 2]),
        Params(99, temperature=0.5, repetition_penalty=1.2, frequency_penalty=0.1),
        Params(99, temperature=1.0, logprobs=3),
    ]
    sequences = [Sequence(WorkerJob(b"", row, 1), [1, 2, 3], [], params) for row, params in enumerate(kinds)]
    logits = torch.randn(len(kinds), vocab_size, device=device)
    bits = torch.full((1, vocab_size // 32 + 1), -1, dtype=torch.int32, device=device)
    allowed = Allowed(torch.zeros(1, dtype=torch.int64, device=device), bits)
    drawn = sampler.draw(logits, sequences, allowed)  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        for turn in range(6):
            for one in sequences:
                one.num_tokens += 1
            batch = sequences[turn % 2 :]  # another batch each time
            drawn = sampler.draw(logits[: len(batch)], batch, allowed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(drawn.read()) == len(sequences) - 1
