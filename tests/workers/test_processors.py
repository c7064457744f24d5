"""Batches of rows with rules, against transformers' processors in its own order, one row at a time."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import MARGIN, plain_scores

from tokenyard.broker.params import Params, Processors, SequenceBias
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers.drawn import BANNED, BROKEN
from tokenyard.workers.sampler import Sampler
from tokenyard.workers.scheduler import Sequence

VOCAB = 7
CPU = torch.device("cpu")
tokens = st.integers(0, VOCAB - 1)
ids = st.lists(tokens, max_size=3, unique=True)
runs = st.lists(st.lists(tokens, min_size=1, max_size=3), max_size=3)
biases = st.dictionaries(st.lists(tokens, min_size=1, max_size=3).map(tuple), st.floats(-5, 5), max_size=3)
processors = st.fixed_dictionaries(
    {
        "sequence_bias": biases.map(lambda found: [SequenceBias(list(run), bias) for run, bias in found.items()]),
        "no_repeat_ngram_size": st.integers(0, 3),
        "bad_words": runs,
        "allowed_token_ids": st.just([]) | st.lists(tokens, min_size=3, unique=True),
        "forced_eos_token_ids": ids,
        "decay_start": st.integers(0, 4),
        "decay_factor": st.sampled_from([1.0, 1.0, 0.5, 1.3]),
        "suppress_tokens": ids,
        "begin_suppress_tokens": ids,
    }
).map(lambda fields: Processors(**fields))
params = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(7, 9),
        "min_tokens": st.integers(0, 6),
        "temperature": st.sampled_from([0.0, 0.9]),
        "repetition_penalty": st.sampled_from([1.0, 1.4]),
        "presence_penalty": st.sampled_from([0.0, 0.7]),
        "seed": st.integers(0, 2**64 - 1),
        "logit_bias": st.dictionaries(tokens, st.floats(-3, 3), max_size=2),
        "stop_token_ids": st.lists(tokens, min_size=1, max_size=2, unique=True),
        "processors": st.none() | processors,
    }
).map(lambda fields: Params(**fields))
rows = st.tuples(params, st.lists(tokens, min_size=1, max_size=6), st.lists(tokens, max_size=8))


def logits_of(num_rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


@given(st.lists(rows, min_size=1, max_size=4), st.integers(0, 2**31))
def test_every_row_is_transformers(batch: list[tuple[Params, list[int], list[int]]], seed: int) -> None:
    sequences = [
        Sequence(WorkerJob(b"", number, 1), prompt, emitted[: one.max_tokens - 1], one)
        for number, (one, prompt, emitted) in enumerate(batch)
    ]
    raw = logits_of(len(batch), seed)
    for row, one, drawn in zip(raw, sequences, Sampler(VOCAB, CPU).sample(raw, sequences), strict=True):
        scores = plain_scores(row, one.ids.tolist(), one.num_prompt, one.params)
        if not scores.isfinite().any():
            assert drawn.token == BANNED
        else:
            assert scores.max() - scores[drawn.token] < MARGIN


def sequence(number: int = 0, emitted: list[int] | None = None, **fields: Any) -> Sequence:
    return Sequence(WorkerJob(b"", number, 1), [1, 2, 3], emitted or [], Params(**{"max_tokens": 9, **fields}))


def draw(raw: torch.Tensor, *sequences: Sequence) -> list[int]:
    return [one.token for one in Sampler(VOCAB, CPU).sample(raw, list(sequences))]


def test_a_forced_token_comes_last_whatever_bans_it_but_what_suppresses_it() -> None:
    forced = Processors(forced_eos_token_ids=[5], bad_words=[[5]], allowed_token_ids=[1], no_repeat_ngram_size=1)
    last = sequence(emitted=[5] * 8, temperature=0.0, processors=forced)
    suppressed = sequence(emitted=[5] * 8, processors=forced._replace(suppress_tokens=[5]))
    before = sequence(emitted=[6] * 7, temperature=0.0, processors=Processors(forced_eos_token_ids=[5]))
    raw = logits_of(3)
    assert draw(raw, last, suppressed, before) == [5, BANNED, raw[2].argmax()]


def test_invalid_values_are_replaced_only_where_that_is_asked_for() -> None:
    raw = logits_of(4)
    raw[0] = torch.nan
    raw[1, 4] = torch.inf
    raw[2, 4] = torch.nan
    asked = Processors(remove_invalid_values=True)
    replacing = [sequence(number, temperature=0.7, seed=number, processors=asked) for number in range(3)]
    first, second, third, own = draw(raw, *replacing, sequence(3, temperature=0.0))
    assert 0 <= first < VOCAB
    assert 0 <= third < VOCAB
    assert second == 4
    assert own == raw[3].argmax()
    assert draw(raw[:3], *[sequence(number, temperature=0.7) for number in range(3)]) == [BROKEN] * 3


def test_broken_rows_are_told_from_banned_ones() -> None:
    raw = logits_of(3)
    raw[1] = torch.nan
    nothing = Processors(suppress_tokens=list(range(VOCAB)))
    greedy = [sequence(number, temperature=0.0, processors=nothing) for number in (0, 1)]
    assert draw(raw, *greedy, sequence(2, temperature=0.0)) == [BANNED, BROKEN, raw[2].argmax()]
    drawn = [sequence(number, temperature=0.7, top_p=0.5, processors=nothing) for number in (0, 1)]
    assert draw(raw[:2], *drawn) == [BANNED, BROKEN]


def test_what_was_worked_out_for_a_sequence_is_forgotten_with_it() -> None:
    sampler = Sampler(VOCAB, CPU)
    one = sequence(temperature=0.0, processors=Processors(suppress_tokens=[0]))
    sampler.sample(logits_of(1), [one])
    assert one in sampler._rules
    sampler.forget(one)
    assert not sampler._rules
