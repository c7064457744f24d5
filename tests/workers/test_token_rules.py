"""Bans and biases of single tokens are those of transformers' processors, whatever came before."""

from array import array

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import NoRepeatNGramLogitsProcessor, SequenceBiasLogitsProcessor

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import MAX_LISTED_IDS, MAX_RUN_TOKENS, MAX_RUNS, Params, Processors, SequenceBias
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers.scheduler import Sequence
from tokenyard.workers.token_rules import Endings, TokenRules, refuse_impossible, repeated

VOCAB = 5
tokens = st.integers(0, VOCAB - 1)
histories = st.lists(tokens, min_size=1, max_size=40)


@given(histories, st.integers(1, 8))
def test_repeated_tokens_are_those_that_transformers_bans(ids: list[int], size: int) -> None:
    scores = NoRepeatNGramLogitsProcessor(size)(torch.tensor([ids]), torch.zeros(1, VOCAB))
    assert set(repeated(array("I", ids), size)) == {token for token in range(VOCAB) if scores[0, token] != 0}


def test_a_run_may_lie_across_prompt_and_answer() -> None:
    sequence = Sequence(WorkerJob(b"", 1, 1), [7, 8, 9, 7], [8], Params(9))
    rules = TokenRules(Params(9, processors=Processors(no_repeat_ngram_size=3, bad_words=[[9, 7, 8, 4], [8, 5]])))
    assert sorted(rules.next(sequence).banned) == [4, 5, 9]


@given(histories, st.dictionaries(st.lists(tokens, min_size=2, max_size=4).map(tuple), st.floats(-9, 9), min_size=1))
def test_endings_gain_what_transformers_adds(ids: list[int], biases: dict[tuple[int, ...], float]) -> None:
    scores = SequenceBiasLogitsProcessor(biases)(torch.tensor([ids]), torch.zeros(1, VOCAB))[0]  # type: ignore[arg-type]
    found = torch.zeros(VOCAB)
    for token, bias in Endings((list(run), bias) for run, bias in biases.items()).after(array("I", ids)):
        found[token] += bias
    assert torch.allclose(found, scores, atol=1e-5)


@pytest.mark.parametrize(
    ("processors", "follows"),
    [
        (Processors(suppress_tokens=[1], bad_words=[[1]], sequence_bias=[SequenceBias([1], 1.0)]), False),
        (Processors(no_repeat_ngram_size=2), True),
        (Processors(bad_words=[[1], [1, 2]]), True),
        (Processors(sequence_bias=[SequenceBias([1, 2], 1.0)]), True),
    ],
)
def test_only_what_depends_on_tokens_waits_for_them(processors: Processors, follows: bool) -> None:
    assert processors.follows_text is follows
    assert Sequence(WorkerJob(b"", 1, 1), [1], [], Params(9, processors=processors)).follows_text is follows


def test_the_length_penalty_ends_where_float32_would() -> None:
    params = Params(9999, stop_token_ids=[1], processors=Processors(decay_start=3, decay_factor=10.0))
    gains = []
    for emitted in (3, 4, 9, 5000):
        gains.append(TokenRules(params).next(Sequence(WorkerJob(b"", 1, 1), [1], [2] * emitted, params)).gain)
    assert gains == pytest.approx([0, 9, 10**6 - 1, 1e30])


@pytest.mark.parametrize(
    "processors",
    [
        Processors(bad_words=[[]]),
        Processors(bad_words=[[VOCAB]]),
        Processors(bad_words=[[1] * (MAX_RUN_TOKENS + 1)]),
        Processors(bad_words=[[1]] * (MAX_RUNS + 1)),
        Processors(sequence_bias=[SequenceBias([], 1.0)]),
        Processors(sequence_bias=[SequenceBias([1, -1], 1.0)]),
        Processors(sequence_bias=[SequenceBias([1], float("inf"))]),
        Processors(suppress_tokens=[1] * (MAX_LISTED_IDS + 1)),
        Processors(begin_suppress_tokens=[VOCAB]),
        Processors(allowed_token_ids=[-1]),
        Processors(forced_eos_token_ids=[99]),
        Processors(no_repeat_ngram_size=-1),
        Processors(decay_factor=0.0),
        Processors(decay_factor=float("nan")),
        Processors(decay_start=-1),
        Processors(typical_p=0.0),
        Processors(top_h=1.5),
        Processors(epsilon_cutoff=float("nan")),
        Processors(eta_cutoff=-0.1),
    ],
)
def test_what_the_front_should_have_refused_is_refused(processors: Processors) -> None:
    refuse_impossible(Processors(bad_words=[[1, 2]], sequence_bias=[SequenceBias([1], 2.0)]), VOCAB)
    with pytest.raises(TokenyardError):
        refuse_impossible(processors, VOCAB)
