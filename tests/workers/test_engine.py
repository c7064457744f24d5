"""The engine on tiny random models: its streams are those of transformers, whatever runs beside them."""

import math
from random import Random

import pytest
import torch
from engines import BLOCK, CONTEXT, VOCAB, Bench, Stream, Streams, greedy, job_of, prompt_of, run, run_one, step

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import Finish

LENGTHS = (1, 16, 17, 100)
"""Prompts around block borders, and long ones."""
COUNT = 32


def mixed(number: int) -> Params:
    """Fifteen neighbours that use everything, in all mixtures."""
    return Params(
        max_tokens=20 + number,
        temperature=(0.0, 0.7, 1.3)[number % 3],
        top_k=(0, 20)[number % 2],
        top_p=(1.0, 0.9)[number // 2 % 2],
        min_p=(0.0, 0.05)[number // 3 % 2],
        repetition_penalty=(1.0, 1.3)[number // 4 % 2],
        presence_penalty=(0.0, 0.5)[number // 5 % 2],
        frequency_penalty=(0.0, 0.3)[number % 2],
        logit_bias=({}, {number: 2.0, number + 1: -100.0})[number // 7 % 2],
        min_tokens=(0, 10)[number % 2],
        stop_token_ids=[number + 50],
        seed=number * 2**60 + 17,
        logprobs=(-1, 0, 5)[number % 3],
    )


def check_all(bench: Bench, streams: Streams, jobs: dict[int, tuple[list[int], Params]]) -> None:
    for number, (prompt, params) in jobs.items():
        stream = streams[job_of(number)]
        bench.reference.check(prompt, stream.ids, params)
        stopped = stream.ids[-1] in params.stop_token_ids
        assert stream.finish == Finish("stop" if stopped else "length")
        assert stopped or len(stream.ids) == params.max_tokens


@pytest.mark.parametrize("length", LENGTHS)
def test_greedy_alone_is_generate(bench: Bench, length: int) -> None:
    prompt = prompt_of(length)
    stream = run_one(bench.engine(), prompt, greedy(COUNT))
    bench.reference.check_greedy(prompt, stream.ids)
    assert stream.finish == Finish("length")
    assert len(stream.ids) == COUNT
    assert len(set(stream.ids)) > 5, "a stream that repeats itself would not show a wrong position"


def test_greedy_among_mixed_neighbours(bench: Bench) -> None:
    jobs = {number: (prompt_of(5 + 7 * number), mixed(number)) for number in range(1, 16)}
    jobs[0] = (prompt_of(40), greedy(COUNT))
    engine = bench.engine(max_num_seqs=16, max_batch_tokens=128)
    streams: Streams = {}
    for number, (prompt, params) in jobs.items():
        engine.add(job_of(number), prompt, [], params)
        step(engine, streams)  # they come in one after another, while others decode
    run(engine, streams)
    check_all(bench, streams, jobs)
    bench.reference.check_greedy(jobs[0][0], streams[job_of(0)].ids)


def test_chunked_prefill(bench: Bench) -> None:
    engine = bench.engine(max_num_seqs=8, max_batch_tokens=24)
    prompts = {number: prompt_of(length) for number, length in enumerate((100, 70, 3, 90))}
    for number, prompt in prompts.items():
        engine.add(job_of(number), prompt, [], greedy(COUNT))
    streams = run(engine)
    assert engine.num_steps > COUNT + 263 // 24
    for number, prompt in prompts.items():
        bench.reference.check_greedy(prompt, streams[job_of(number)].ids)


@pytest.mark.parametrize("seed", range(3))
def test_tokens_do_not_depend_on_the_pace(llama: Bench, seed: int) -> None:
    random = Random(seed)
    engine = llama.engine(max_num_seqs=8, max_batch_tokens=64)
    prompts = {number: prompt_of(length) for number, length in enumerate((100, 70, 3, 90, 150, 41))}
    streams: Streams = {}
    for number, prompt in prompts.items():
        engine.add(job_of(number), prompt, [], greedy(COUNT))
        for _ in range(random.randint(0, 9)):
            step(engine, streams)
            engine.took(random.choice((0.01, 0.02, 0.5)))
    run(engine, streams)
    for number, prompt in prompts.items():
        llama.reference.check_greedy(prompt, streams[job_of(number)].ids)


def test_a_long_prompt_comes_in_pieces_that_a_stream_can_bear(llama: Bench) -> None:
    engine = llama.engine(max_num_seqs=8, max_batch_tokens=64)
    streams: Streams = {}
    for number in range(3):  # a token costs as much as a step that only decodes
        engine.add(job_of(number), prompt_of(64, salt=number), [], greedy(64))
        step(engine, streams)
        engine.took(0.64)
        for _ in range(3):
            step(engine, streams)
            engine.took(0.01)
    engine.add(job_of(9), prompt_of(100), [], greedy(2))
    before = engine.num_steps
    while job_of(9) not in streams or not streams[job_of(9)].ids:
        step(engine, streams)
        engine.took(0.01 + BLOCK * 0.01)
    assert streams[job_of(9)].steps == [before + -(-100 // BLOCK)]
    for number in range(3):
        assert streams[job_of(number)].steps[-1] == engine.num_steps, "it had a token in each of them"


def test_preemption(bench: Bench) -> None:
    engine = bench.engine(num_blocks=14, max_num_seqs=8)
    jobs = {number: (prompt_of(30 + number), mixed(number)._replace(max_tokens=60)) for number in range(6)}
    for number, (prompt, params) in jobs.items():
        engine.add(job_of(number), prompt, [], params)
    streams = run(engine)
    assert engine.load()["preempted"] > 2
    check_all(bench, streams, jobs)


def test_prefix_hit(bench: Bench) -> None:
    engine = bench.engine()
    prompt = prompt_of(70)
    for turn, cached in enumerate((0, 64)):
        stream = run_one(engine, prompt, greedy(COUNT))
        assert stream.cached_tokens == cached, turn
        bench.reference.check_greedy(prompt, stream.ids)
    longer = prompt + stream.ids + prompt_of(9)
    stream = run_one(engine, longer, greedy(COUNT))
    assert stream.cached_tokens == (70 + COUNT - 1) // BLOCK * BLOCK
    bench.reference.check_greedy(longer, stream.ids)
    branched = prompt[:40] + prompt_of(30, salt=1)
    stream = run_one(engine, branched, greedy(COUNT))
    assert stream.cached_tokens == 32
    bench.reference.check_greedy(branched, stream.ids)


def test_prefix_is_shared_while_it_runs(bench: Bench) -> None:
    engine = bench.engine()
    prompt = prompt_of(70)
    streams: Streams = {}
    engine.add(job_of(0), prompt, [], greedy(COUNT))
    step(engine, streams)
    free = engine.load()["free_blocks"]
    for number in range(1, 4):
        engine.add(job_of(number), [*prompt, number], [], greedy(COUNT))
    step(engine, streams)
    assert free - engine.load()["free_blocks"] == 3, "each needs only its own last block"
    run(engine, streams)
    for number in range(1, 4):
        assert streams[job_of(number)].cached_tokens == 64
        bench.reference.check_greedy([*prompt, number], streams[job_of(number)].ids)
    bench.reference.check_greedy(prompt, streams[job_of(0)].ids)


def test_equal_prompts_at_once_are_prefilled_once(llama: Bench) -> None:
    engine = llama.engine(max_num_seqs=8, max_batch_tokens=32)
    for number in range(4):
        engine.add(job_of(number), prompt_of(70), [], SEEDED._replace(seed=number))
    streams = run(engine)
    assert [streams[job_of(number)].cached_tokens for number in range(4)] == [0, 64, 64, 64]
    for number in range(4):
        llama.reference.check(prompt_of(70), streams[job_of(number)].ids, SEEDED._replace(seed=number))


def test_cache_salt_keeps_prefixes_apart(llama: Bench) -> None:
    engine = llama.engine()
    for salt, cached in (("", 0), ("a", 0), ("b", 0), ("a", 32), ("", 32)):
        assert run_one(engine, prompt_of(40), greedy(2, cache_salt=salt)).cached_tokens == cached


SEEDED = Params(
    max_tokens=COUNT, temperature=0.9, top_p=0.95, repetition_penalty=1.1, frequency_penalty=0.2, seed=2**64 - 3
)


def test_seeded_stream_alone_among_neighbours_and_resumed(bench: Bench) -> None:
    prompt = prompt_of(37)
    alone = run_one(bench.engine(), prompt, SEEDED)
    bench.reference.check(prompt, alone.ids, SEEDED)

    engine = bench.engine(max_batch_tokens=64)
    for number in range(1, 16):
        engine.add(job_of(number), prompt_of(3 + number), [], mixed(number))
    engine.add(job_of(0), prompt, [], SEEDED)
    bench.reference.check(prompt, run(engine)[job_of(0)].ids, SEEDED)

    half = alone.ids[: COUNT // 2]
    resumed = run_one(bench.engine(), prompt, SEEDED, emitted=half)
    bench.reference.check(prompt, half + resumed.ids, SEEDED)
    assert len(resumed.ids) == COUNT - len(half), "max_tokens counts over all attempts"


def test_seeds_differ(llama: Bench) -> None:
    streams = [run_one(llama.engine(), prompt_of(9), SEEDED._replace(seed=seed)).ids for seed in (1, 2, 2**32 + 1)]
    assert len({tuple(ids) for ids in streams}) == 3


def test_long_prompt_does_not_stall_running_streams(llama: Bench) -> None:
    engine = llama.engine(max_num_seqs=8, max_batch_tokens=16)
    streams: Streams = {}
    for number in range(4):
        engine.add(job_of(number), prompt_of(4, salt=number), [], greedy(100))
        step(engine, streams)
    before = engine.num_steps
    engine.add(job_of(9), prompt_of(200), [], greedy(5))
    run(engine, streams)
    assert streams[job_of(9)].steps[0] - before == math.ceil(200 / (16 - 4))
    for number in range(4):
        steps = streams[job_of(number)].steps
        assert steps == list(range(steps[0], steps[0] + 100)), "one token in every step"


def test_held_front_rests_and_goes_on(llama: Bench) -> None:
    engine = llama.engine(num_blocks=20)
    streams: Streams = {}
    slow, quick = job_of(0, front=b"slow"), job_of(1, front=b"quick")
    for key in (slow, quick):
        engine.add(key, prompt_of(20, salt=key.job), [], greedy(COUNT))
    for _ in range(3):
        step(engine, streams)
    for _ in range(10):
        step(engine, streams, held=(b"slow",))
    assert (len(streams[slow].ids), len(streams[quick].ids)) == (3, 13)
    run(engine, streams)
    for key in (slow, quick):
        llama.reference.check_greedy(prompt_of(20, salt=key.job), streams[key].ids)


def test_first_delta_comes_with_the_first_chunk(llama: Bench) -> None:
    engine = llama.engine(max_num_seqs=8, max_batch_tokens=16)
    engine.add(job_of(0), prompt_of(40), [], greedy(2))
    (output,) = engine.step()
    assert output.delta.token_ids == []
    assert output.delta.extra == {"cached_tokens": 0}
    assert engine.step() == []
    (output,) = engine.step()
    assert len(output.delta.token_ids) == 1
    assert output.delta.extra == {}


def test_stop_tokens_and_min_tokens(llama: Bench) -> None:
    prompt = prompt_of(12)
    free = run_one(llama.engine(), prompt, greedy(COUNT)).ids
    place = next(index for index, token in enumerate(free) if index > 5 and token not in free[:index])
    stopped = run_one(llama.engine(), prompt, greedy(COUNT, stop_token_ids=[free[place]]))
    assert stopped.ids == free[: place + 1]
    assert stopped.finish == Finish("stop")
    params = greedy(COUNT, stop_token_ids=[free[place]], min_tokens=place + 3)
    later = run_one(llama.engine(), prompt, params)
    assert len(later.ids) >= place + 3
    llama.reference.check(prompt, later.ids, params)


def test_context_end(llama: Bench) -> None:
    stream = run_one(llama.engine(), prompt_of(CONTEXT - 5), greedy(COUNT))
    assert stream.finish == Finish("length")
    assert len(stream.ids) == 5


def test_pool_end(llama: Bench) -> None:
    stream = run_one(llama.engine(num_blocks=3), prompt_of(30), greedy(COUNT))
    assert stream.finish == Finish("length")
    assert len(stream.ids) == 3 * BLOCK - 30
    llama.reference.check_greedy(prompt_of(30), stream.ids)


def test_abort_frees_everything(llama: Bench) -> None:
    engine = llama.engine(max_num_seqs=2, max_batch_tokens=16)
    for number in range(4):
        engine.add(job_of(number), prompt_of(40), [], Params(max_tokens=50, repetition_penalty=1.2))
    for _ in range(6):
        engine.step()
    for number in (3, 0, 1, 2, 7):
        engine.abort(job_of(number))
        engine.check()
    assert not engine.has_work
    assert engine.load()["free_blocks"] == engine.load()["num_blocks"]
    assert engine.step() == []


def test_resume_after_the_end_ends_at_once(llama: Bench) -> None:
    engine = llama.engine()
    engine.add(job_of(0, attempt=2), prompt_of(5), [1, 2, 3], greedy(3))
    assert engine.has_work
    (output,) = engine.step()
    assert output.delta.finish == Finish("length")
    assert output.delta.token_ids == []
    assert not engine.has_work


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [
        ([], greedy(5), "prompt"),
        ([VOCAB], greedy(5), "prompt"),
        ([1], greedy(0), "max_tokens"),
        ([1] * CONTEXT, greedy(5), None),
        ([1], greedy(5, logit_bias={VOCAB: 1.0}), "logit_bias"),
        ([1], greedy(5, logit_bias={-1: 1.0}), "logit_bias"),
        ([1], greedy(5, stop_token_ids=[VOCAB]), "stop_token_ids"),
    ],
)
def test_impossible_jobs_are_refused_with_words(
    llama: Bench, prompt: list[int], params: Params, param: str | None
) -> None:
    engine = llama.engine()
    with pytest.raises(TokenyardError) as caught:
        engine.add(job_of(0), prompt, [], params)
    assert caught.value.param == param
    assert not engine.has_work


def test_prompt_longer_than_the_pool_is_refused(llama: Bench) -> None:
    with pytest.raises(TokenyardError, match="KV memory"):
        llama.engine(num_blocks=3).add(job_of(0), [1] * 3 * BLOCK, [], greedy(5))


def test_broken_logits_end_only_their_own_sequence(llama: Bench) -> None:
    weight = llama.loaded.model.get_input_embeddings().weight
    kept = weight[7].clone()
    poison = [7, *prompt_of(20)]
    neighbour = greedy(20, logit_bias={7: -100.0})
    prompts = {number: [token for token in prompt_of(24, salt=number) if token != 7][:20] for number in (2, 3)}
    engine = llama.engine(num_blocks=8)
    streams: Streams = {}
    for number, prompt in prompts.items():
        engine.add(job_of(number), prompt, [], neighbour)
    try:
        weight[7] = torch.nan
        engine.add(job_of(1), poison, [], Params(max_tokens=5, repetition_penalty=1.1, logprobs=3))
        step(engine, streams, may_break=True)
    finally:
        weight[7] = kept
    finish = streams[job_of(1)].finish
    assert finish is not None
    assert (finish.reason, finish.code) == ("error", "worker_error")
    # the neighbours, grown into its blocks, must not see their old content
    run(engine, streams)
    for number, prompt in prompts.items():
        assert streams[job_of(number)].finish == Finish("length")
        llama.reference.check(prompt, streams[job_of(number)].ids, neighbour)
    # nor must the same prompt, with the model healed, find what was computed of it
    again = run_one(engine, poison, greedy(5))
    assert again.cached_tokens == 0
    llama.reference.check_greedy(poison, again.ids)


def test_logprobs_are_those_of_the_raw_logits(bench: Bench) -> None:
    prompt = prompt_of(33)
    params = SEEDED._replace(logprobs=20)
    stream = run_one(bench.engine(max_batch_tokens=64), prompt, params)
    check_logprobs(bench, prompt, stream, 20)
    check_logprobs(bench, prompt, run_one(bench.engine(), prompt, params._replace(logprobs=0)), 0)


def check_logprobs(bench: Bench, prompt: list[int], stream: Stream, count: int) -> None:
    wanted = bench.reference.logits(prompt, stream.ids).log_softmax(dim=-1)
    assert len(stream.logprobs) == len(stream.ids)
    for row, token, (chosen, top_ids, top_values) in zip(wanted, stream.ids, stream.logprobs, strict=True):
        assert chosen == pytest.approx(row[token].item(), abs=1e-4)
        assert len(top_ids) == len(top_values) == count
        assert top_values == pytest.approx(row.topk(count).values.tolist(), abs=1e-4)
        assert top_values == pytest.approx(row[top_ids].tolist(), abs=1e-4)
