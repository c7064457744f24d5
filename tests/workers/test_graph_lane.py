"""Decodes replayed as graphs, with steps that run ahead, are the reference's: a tape stands in for CUDA's graphs."""

import pytest
import torch
from engines import BLOCK, Bench, Stream, Streams, greedy, job_of, prompt_of, run, step
from graphed import WIDTHS, Graphed, cycle, cyclic, drawn, mixed
from tape import record

from tokenyard.broker.params import Params
from tokenyard.broker.wire import Finish
from tokenyard.workers import speculation
from tokenyard.workers.graphs import buckets, num_rows


def void(_: object) -> None:
    """Makes an expression a function's work."""


def test_guesses_of_a_few_streams_have_rows() -> None:
    assert num_rows(64, 0) == 64
    assert num_rows(64, 4) == 64
    assert num_rows(16, 4) == 40
    assert num_rows(1, 4) == 5


def test_buckets_end_with_the_largest_batch() -> None:
    assert buckets(1) == [1]
    assert buckets(40) == [1, 2, 4, 8, 16, 24, 32, 40]
    assert buckets(256)[-3:] == [224, 240, 256]


def test_every_graph_is_the_reference(bench: Bench) -> None:
    """Each bucket, with sequences that grow over each width's border."""
    graphed = Graphed(bench)
    for length in (BLOCK * WIDTHS[0] - 6, BLOCK * WIDTHS[1] - 6):
        for count in (1, 2, 3, 8):
            params_of = drawn if count != 3 else mixed  # with three, the sampler is eager
            jobs = {
                number: (prompt_of(length + number % 3, salt=count), params_of(number, 12)) for number in range(count)
            }
            for number, (prompt, params) in jobs.items():
                graphed.engine.add(job_of(number), prompt, [], params)
            streams = run(graphed.engine)
            for number, (prompt, params) in jobs.items():
                bench.reference.check(prompt, streams[job_of(number)].ids, params)
                assert len(streams[job_of(number)].ids) == 12
    assert set(graphed.num_replays()) == {(bucket, width) for bucket in (1, 2, 4, 8) for width in WIDTHS}
    assert all(graphed.num_replays().values())


def test_sequences_come_stop_and_are_aborted_while_steps_run_ahead(llama: Bench) -> None:
    graphed = Graphed(llama)
    jobs = {number: (prompt_of(5 + 9 * number), mixed(number, 20 + number)) for number in range(12)}
    streams: Streams = {}
    for number, (prompt, params) in jobs.items():
        graphed.engine.add(job_of(number), prompt, [], params)
        for _ in range(4):
            step(graphed.engine, streams)
        if number % 4 == 3:
            graphed.engine.abort(job_of(number))
            graphed.engine.check()
    run(graphed.engine, streams)
    for number, (prompt, params) in jobs.items():
        ids = streams[job_of(number)].ids if job_of(number) in streams else []
        llama.reference.check(prompt, ids, params)
        assert number % 4 == 3 or streams[job_of(number)].finish == Finish("length")
        assert number % 4 == 3 or len(ids) == params.max_tokens


def test_a_stop_token_is_the_last_though_another_is_being_drawn(llama: Bench) -> None:
    prompt = prompt_of(12)
    graphed = Graphed(llama)
    graphed.engine.add(job_of(0), prompt, [], greedy(32))
    graphed.engine.add(job_of(1), prompt_of(20), [], greedy(60))
    streams = run(graphed.engine)
    free = streams[job_of(0)].ids
    place = next(index for index, token in enumerate(free) if index > 5 and token not in free[:index])
    graphed.engine.add(job_of(2), prompt, [], greedy(32, stop_token_ids=[free[place]]))
    graphed.engine.add(job_of(3), prompt_of(20), [], greedy(60))
    streams = run(graphed.engine)
    assert streams[job_of(2)].ids == free[: place + 1]
    assert streams[job_of(2)].finish == Finish("stop")
    llama.reference.check_greedy(prompt_of(20), streams[job_of(3)].ids)


def test_preemption_and_held_fronts(llama: Bench) -> None:
    graphed = Graphed(llama, num_blocks=14)
    streams: Streams = {}
    jobs = {number: (prompt_of(30 + number), mixed(number, 60)) for number in range(6)}
    for number, (prompt, params) in jobs.items():
        graphed.engine.add(job_of(number, front=(b"slow", b"quick")[number % 2]), prompt, [], params)
    for turn in range(40):
        step(graphed.engine, streams, held=(b"slow",) if turn % 8 > 4 else ())
    run(graphed.engine, streams)
    assert graphed.engine.load()["preempted"] > 1
    for number, (prompt, params) in jobs.items():
        stream = streams[job_of(number, front=(b"slow", b"quick")[number % 2])]
        llama.reference.check(prompt, stream.ids, params)
        assert len(stream.ids) == 60


def test_steps_run_ahead_only_where_there_is_a_graph(llama: Bench) -> None:
    graphed = Graphed(llama, most_blocks=16)
    for number in range(2):
        graphed.engine.add(job_of(number), prompt_of(60 + number), [], greedy(100))
    streams = run(graphed.engine)
    for number in range(2):
        llama.reference.check_greedy(prompt_of(60 + number), streams[job_of(number)].ids)
    assert set(graphed.num_replays()) == {(1, 2), (2, 2), (4, 2), (8, 2), (1, 8), (2, 8), (1, 16)}
    assert graphed.num_replays()[2, 8] > 50


def test_tokens_come_one_step_later_and_none_is_missing(llama: Bench) -> None:
    graphed = Graphed(llama)
    graphed.engine.add(job_of(0), prompt_of(5), [], greedy(4))
    assert [len(output.delta.token_ids) for output in graphed.engine.step()] == [1], "the prompt's step lands at once"
    assert graphed.engine.step() == []
    assert [len(output.delta.token_ids) for output in graphed.engine.step()] == [1]
    assert [len(output.delta.token_ids) for output in graphed.engine.step()] == [1]
    assert graphed.engine.has_work
    (output,) = graphed.engine.step()
    assert output.delta.finish == Finish("length")
    assert not graphed.engine.has_work


def test_broken_logits_end_their_own_sequence_in_flight(llama: Bench) -> None:
    weight = llama.loaded.model.get_input_embeddings().weight
    graphed = Graphed(llama)
    streams: Streams = {}
    neighbour = greedy(30, logit_bias={7: -100.0})
    graphed.engine.add(job_of(0), prompt_of(20), [], greedy(30, logit_bias={7: 1000.0}))
    graphed.engine.add(job_of(1), prompt_of(24), [], neighbour)
    kept = weight[7].clone()
    try:
        weight[7] = torch.nan
        for _ in range(6):
            step(graphed.engine, streams, may_break=True)
    finally:
        weight[7] = kept
    finish = streams[job_of(0)].finish
    assert finish is not None
    assert finish.code == "worker_error"
    run(graphed.engine, streams)
    assert streams[job_of(1)].finish == Finish("length")
    llama.reference.check(prompt_of(24), streams[job_of(1)].ids, neighbour)


@pytest.mark.parametrize("number", [3, 5])
def test_the_tape_tells_a_number_that_was_baked_in(number: int) -> None:
    """What these tests rest on."""
    length, buffer, result = 3, torch.arange(8.0), torch.zeros(())
    tape = record(lambda: void(result.copy_(buffer[:length].sum())))
    length = number
    buffer += 1
    tape.replay()
    assert (result == buffer[:length].sum()) == (number == 3)
    with pytest.raises(RuntimeError, match="cannot record"):
        record(lambda: void(buffer.sum().item()))


def test_scores_beside_decodes_that_run_ahead(llama: Bench) -> None:
    """A cached prompt's last token is replayed like a decode, but nothing is drawn after it."""
    graphed = Graphed(llama)
    graphed.engine.add(job_of(0), prompt_of(20), [], drawn(1, 60))
    streams: Streams = {}
    prompt = prompt_of(2 * BLOCK + 1)
    found: list[dict[str, object]] = []
    for number in range(1, 4):
        graphed.engine.score(job_of(number), prompt, Params(max_tokens=0, score_ids=[7, 9]))
        for _ in range(5):
            for key, delta in graphed.engine.step():
                if key == job_of(0):
                    streams.setdefault(key, Stream()).ids += delta.token_ids
                else:
                    assert delta.finish == Finish("length")
                    found.append(delta.extra)
            graphed.engine.check()
    with torch.inference_mode():
        row = llama.reference.model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    assert [one.get("cached_tokens") for one in found] == [0, 2 * BLOCK, 2 * BLOCK]
    assert all(one["scores"] == pytest.approx(row[[7, 9]].tolist(), abs=1e-3) for one in found)
    llama.reference.check(prompt_of(20), streams[job_of(0)].ids, drawn(1, 60))


# Speculation: guesses are rows of the same graphs.


def guessing(bench: Bench, max_num_seqs: int = 4, num_drafts: int = 4, **options: int) -> Graphed:
    return Graphed(bench, max_num_seqs, num_drafts=num_drafts, **options)


@pytest.fixture
def _tireless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences guess on, however seldom they are right."""
    monkeypatch.setattr(speculation, "REST", 0)


@pytest.mark.usefixtures("_tireless")
def test_guesses_are_replayed_and_change_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    graphed = guessing(bench)
    eager_plans = []
    run_eagerly = graphed.paged.run
    monkeypatch.setattr(graphed.paged, "run", lambda plan: eager_plans.append(plan) or run_eagerly(plan))
    jobs = {number: (cycle(number), cyclic(number)) for number in range(4)}
    for number, (prompt, params) in jobs.items():
        graphed.engine.add(job_of(number), prompt, [], params)
    streams = run(graphed.engine)
    for number, (prompt, params) in jobs.items():
        bench.reference.check(prompt, streams[job_of(number)].ids, params)
        assert len(streams[job_of(number)].ids) == 60
    figures = graphed.engine.load()
    assert figures["guessed"] > figures["confirmed"] > 20
    by_bucket = {bucket: count for (bucket, _), count in graphed.num_replays().items() if count}
    assert max(by_bucket) > 4, "a step with guesses has more rows than sequences"
    assert all(plan.prefills for plan in eager_plans)


def test_steps_run_ahead_where_nothing_can_be_guessed(llama: Bench) -> None:
    graphed = guessing(llama)
    prompt = list(range(20))
    graphed.engine.add(job_of(0), prompt, [], greedy(4, logit_bias={100: 100.0}))  # 100 has not come before
    assert [len(output.delta.token_ids) for output in graphed.engine.step()] == [1], "the prompt's step lands at once"
    assert graphed.engine.step() == []
    streams = run(graphed.engine, {job_of(0): Stream(ids=[100])})
    assert streams[job_of(0)].ids == [100] * 4


@pytest.mark.usefixtures("_tireless")
def test_guesses_take_no_more_rows_than_there_are(llama: Bench) -> None:
    graphed = guessing(llama, max_num_seqs=12, num_drafts=2)
    assert graphed.lane.buckets[-1] == 24
    assert graphed.lane.most_drafts(20) == 4
    assert graphed.lane.most_drafts(24) == graphed.lane.most_drafts(30) == 0
    jobs = {number: (cycle(number), cyclic(number)) for number in range(12)}
    for number, (prompt, params) in jobs.items():
        graphed.engine.add(job_of(number), prompt, [], params)
    streams = run(graphed.engine)
    for number, (prompt, params) in jobs.items():
        llama.reference.check(prompt, streams[job_of(number)].ids, params)
    assert graphed.engine.load()["confirmed"] > 20


@pytest.mark.usefixtures("_tireless")
def test_speculation_through_preemption_abort_and_held_fronts(llama: Bench) -> None:
    graphed = guessing(llama, num_blocks=12)
    streams: Streams = {}
    jobs = {number: (cycle(number)[: 20 + 5 * number], cyclic(number)) for number in range(6)}
    for number, (prompt, params) in jobs.items():
        graphed.engine.add(job_of(number, front=(b"slow", b"quick")[number % 2]), prompt, [], params)
    for turn in range(30):
        step(graphed.engine, streams, held=(b"slow",) if turn % 8 > 4 else ())
    graphed.engine.abort(job_of(3, front=b"quick"))
    run(graphed.engine, streams)
    assert graphed.engine.load()["preempted"] > 0
    for number, (prompt, params) in jobs.items():
        if number != 3:
            llama.reference.check(prompt, streams[job_of(number, front=(b"slow", b"quick")[number % 2])].ids, params)
