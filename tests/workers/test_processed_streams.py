"""Whole streams with transformers' rarer processors: they are generate's, resume, run ahead and are guessed alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engines import BLOCK, VOCAB, Bench, Streams, greedy, job_of, prompt_of, run, run_one, step
from tape import record

from tokenyard.broker.params import Params, Processors, SequenceBias
from tokenyard.broker.wire import Finish
from tokenyard.workers.engine import Engine
from tokenyard.workers.graph_lane import GraphLane
from tokenyard.workers.model import EngineOptions
from tokenyard.workers.paged import PagedLane
from tokenyard.workers.static_step import gathered_decode

COUNT = 30
PROMPT = prompt_of(12) * 3


def ahead(bench: Bench) -> Engine:
    """Steps that run ahead, as they do on a GPU."""
    lane = GraphLane(bench.loaded, PagedLane(bench.loaded), 8, [16], gathered_decode, record)
    return Engine(bench.loaded, EngineOptions(max_num_seqs=8, max_batch_tokens=64), lane)


ENGINES: dict[str, Callable[[Bench], Engine]] = {
    "eager": lambda bench: bench.engine(),
    "ahead": ahead,
    "guessing": lambda bench: bench.engine(num_drafts=4),
}


def cases(free: list[int]) -> dict[str, tuple[dict[str, Any], Params]]:
    """Attributes of a GenerationConfig that change the stream `free`, and what they are to the worker."""
    first, second, third = free[0], free[1], free[2]
    stops = {"eos_token_id": [free[5], free[9]], "pad_token_id": 0}
    stop_ids = sorted(stops["eos_token_id"])
    one_bias, run_bias = [[first], -5.0], [[PROMPT[-1], first], -9.0]
    listed = [SequenceBias(*one_bias), SequenceBias(*run_bias)]  # type: ignore[arg-type]

    def params(processors: Processors, **more: Any) -> Params:
        return greedy(COUNT, processors=processors, **more)

    return {
        "bad_words_ids": (
            {"bad_words_ids": [[first], [PROMPT[-1], second], [third]]},
            params(Processors(bad_words=[[first], [PROMPT[-1], second], [third]])),
        ),
        "a bad word that begins in the prompt": (
            {"bad_words_ids": [[*PROMPT[-2:], first]]},
            params(Processors(bad_words=[[*PROMPT[-2:], first]])),
        ),
        "suppress_tokens": ({"suppress_tokens": free[:8]}, params(Processors(suppress_tokens=free[:8]))),
        "begin_suppress_tokens": (
            {"begin_suppress_tokens": [first]},
            params(Processors(begin_suppress_tokens=[first])),
        ),
        "no_repeat_ngram_size 1": ({"no_repeat_ngram_size": 1}, params(Processors(no_repeat_ngram_size=1))),
        "no_repeat_ngram_size 2": (
            {"no_repeat_ngram_size": 2, "sequence_bias": [[[token], 30.0] for token in range(6)]},
            params(Processors([SequenceBias([token], 30.0) for token in range(6)], no_repeat_ngram_size=2)),
        ),
        "sequence_bias": ({"sequence_bias": [one_bias, run_bias]}, params(Processors(sequence_bias=listed))),
        "forced_eos_token_id": (
            {"forced_eos_token_id": 7, **stops},
            params(Processors(forced_eos_token_ids=[7]), stop_token_ids=stop_ids, min_tokens=COUNT),
        ),
        "exponential_decay_length_penalty": (
            {"exponential_decay_length_penalty": (4, 1.5), **stops},
            params(Processors(decay_start=4, decay_factor=1.5), stop_token_ids=stop_ids),
        ),
        "min_length": ({"min_length": len(PROMPT) + 8, **stops}, greedy(COUNT, stop_token_ids=stop_ids, min_tokens=8)),
        "all": (
            {
                "sequence_bias": [one_bias, run_bias],
                "repetition_penalty": 1.2,
                "no_repeat_ngram_size": 3,
                "bad_words_ids": [[second], [third, second]],
                "min_new_tokens": 5,
                "exponential_decay_length_penalty": (10, 1.1),
                "suppress_tokens": [third],
                "begin_suppress_tokens": [first],
                "remove_invalid_values": True,
                "renormalize_logits": True,
                **stops,
            },
            params(
                Processors(
                    sequence_bias=listed,
                    no_repeat_ngram_size=3,
                    bad_words=[[second], [third, second]],
                    decay_start=10,
                    decay_factor=1.1,
                    suppress_tokens=[third],
                    begin_suppress_tokens=[first],
                    remove_invalid_values=True,
                ),
                repetition_penalty=1.2,
                min_tokens=5,
                stop_token_ids=stop_ids,
            ),
        ),
    }


NAMES = list(cases(list(range(20))))


@pytest.fixture(scope="session")
def free(llama: Bench) -> list[int]:
    """What the prompt gives without any processor."""
    return run_one(llama.engine(), PROMPT, greedy(COUNT)).ids


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_streams_are_generates(llama: Bench, free: list[int], name: str, kind: str) -> None:
    config, params = cases(free)[name]
    if name == "forced_eos_token_id":
        config["min_new_tokens"] = COUNT
    stream = run_one(ENGINES[kind](llama), PROMPT, params)
    assert stream.ids == llama.reference.generate(PROMPT, COUNT, **config)
    assert stream.ids != free
    llama.reference.check(PROMPT, stream.ids, params)


SAMPLED = [
    Processors(top_h=0.5),
    Processors(typical_p=0.6),
    Processors(epsilon_cutoff=0.02),
    Processors(eta_cutoff=0.02),
    Processors(
        no_repeat_ngram_size=2, typical_p=0.9, bad_words=[[1, 2], [3]], sequence_bias=[SequenceBias([4, 5], 3.0)]
    ),
]


def mixed(number: int) -> Params:
    """Every other row has processors."""
    processors = SAMPLED[number // 2 % len(SAMPLED)] if number % 2 else None
    return Params(max_tokens=COUNT, temperature=0.9, seed=number, processors=processors)


@pytest.mark.parametrize("kind", ENGINES)
def test_sampled_rows_among_neighbours_and_resumed(llama: Bench, kind: str) -> None:
    jobs = {number: (prompt_of(5, salt=number) * 4, mixed(number)) for number in range(8)}
    engine = ENGINES[kind](llama)
    for number, (prompt, params) in jobs.items():
        engine.add(job_of(number), prompt, [], params)
    streams = run(engine)
    for number, (prompt, params) in jobs.items():
        stream = streams[job_of(number)]
        llama.reference.check(prompt, stream.ids, params)
        half = stream.ids[: COUNT // 2]
        assert half + run_one(ENGINES[kind](llama), prompt, params, half).ids == stream.ids


@pytest.mark.parametrize("kind", ENGINES)
def test_bans_that_leave_nothing_end_their_own_sequence_with_words(llama: Bench, kind: str) -> None:
    engine = ENGINES[kind](llama)
    last = list(range(VOCAB - 3))
    engine.add(job_of(0), prompt_of(9), [], greedy(40))
    engine.add(job_of(1), [1], [], greedy(40, processors=Processors(no_repeat_ngram_size=1, suppress_tokens=last)))
    streams: Streams = {}
    while engine.has_work:
        step(engine, streams, may_break=True)
    finish = streams[job_of(1)].finish
    assert finish is not None
    assert (finish.reason, finish.code) == ("error", "invalid_value")
    assert "leave no token" in finish.words
    assert sorted(streams[job_of(1)].ids) == [VOCAB - 3, VOCAB - 2, VOCAB - 1]
    llama.reference.check_greedy(prompt_of(9), streams[job_of(0)].ids)


def test_what_invalid_values_leave_harms_nobody(llama: Bench) -> None:
    weight = llama.loaded.model.get_input_embeddings().weight
    kept = weight[7].clone()
    poison = [7, *[token for token in prompt_of(24) if token != 7][: 2 * BLOCK]]
    engine = llama.engine(num_blocks=8)
    try:
        weight[7] = torch.nan
        invalid = run_one(engine, poison, Params(5, processors=Processors(remove_invalid_values=True), seed=4))
    finally:
        weight[7] = kept
    assert (len(invalid.ids), invalid.finish) == (5, Finish("length"))
    again = run_one(engine, poison, greedy(5))
    assert again.cached_tokens == 0
    llama.reference.check_greedy(poison, again.ids)
    prompt = prompt_of(60)
    llama.reference.check_greedy(prompt, run_one(engine, prompt, greedy(40)).ids)
