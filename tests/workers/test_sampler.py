"""Each sampling feature against transformers' own processors, row by row, in mixed batches."""

from typing import Any

import pytest
import torch
from reference import MARGIN, noise, plain_scores

from tokenyard.broker.params import Params, Processors, SequenceBias
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers.drawn import BROKEN
from tokenyard.workers.sampler import Sampler
from tokenyard.workers.scheduler import Sequence

VOCAB = 97
CPU = torch.device("cpu")
DRAWN = {"temperature": 0.8}
FEATURES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 1.7},
    "low temperature": {"temperature": 0.01},
    "top_k": {**DRAWN, "top_k": 5},
    "top_k 1": {**DRAWN, "top_k": 1},
    "top_k over vocabulary": {**DRAWN, "top_k": 10_000},
    "top_p": {**DRAWN, "top_p": 0.6},
    "top_p tiny": {**DRAWN, "top_p": 1e-6},
    "min_p": {**DRAWN, "min_p": 0.2},
    "min_p 1": {**DRAWN, "min_p": 1.0},
    "top_k, top_p and min_p": {**DRAWN, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    "repetition": {"temperature": 0.0, "repetition_penalty": 2.0},
    "repetition below 1": {**DRAWN, "repetition_penalty": 0.7},
    "presence": {"temperature": 0.0, "presence_penalty": 1.5},
    "frequency": {"temperature": 0.0, "frequency_penalty": 0.8},
    "negative penalties": {**DRAWN, "presence_penalty": -1.0, "frequency_penalty": -0.5},
    "bias": {"temperature": 0.0, "logit_bias": {3: 4.0, 5: -100.0, 8: 2.5}},
    "min_tokens": {"temperature": 0.0, "min_tokens": 7, "stop_token_ids": [1, 2], "logit_bias": {1: 50.0}},
    "min_tokens reached": {"temperature": 0.0, "min_tokens": 6, "stop_token_ids": [1, 2], "logit_bias": {1: 50.0}},
    "sequence bias": {"temperature": 0.0, "processors": Processors([SequenceBias([3], 4.0), SequenceBias([5], -9.0)])},
    "no repeated token": {**DRAWN, "processors": Processors(no_repeat_ngram_size=1)},
    "bad words": {"temperature": 0.0, "processors": Processors(bad_words=[[token] for token in range(40)])},
    "allowed": {**DRAWN, "processors": Processors(allowed_token_ids=[90, 3, 4])},
    "length penalty": {
        "temperature": 0.0,
        "stop_token_ids": [1, 2],
        "processors": Processors(decay_start=2, decay_factor=1.2),
    },
    "suppressed": {"temperature": 0.0, "processors": Processors(suppress_tokens=list(range(50)))},
    "top_h": {**DRAWN, "processors": Processors(top_h=0.4)},
    "typical_p": {**DRAWN, "processors": Processors(typical_p=0.5)},
    "epsilon_cutoff": {**DRAWN, "processors": Processors(epsilon_cutoff=0.03)},
    "eta_cutoff": {**DRAWN, "processors": Processors(eta_cutoff=0.03)},
    "all": {
        "temperature": 1.1,
        "top_k": 30,
        "top_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.3,
        "logit_bias": {4: 3.0},
        "min_tokens": 9,
        "stop_token_ids": [4, 6],
        "processors": Processors(
            sequence_bias=[SequenceBias([7], 1.5), SequenceBias([2, 9], 3.0)],
            no_repeat_ngram_size=2,
            bad_words=[[11], [3, 12], [4]],
            decay_start=1,
            decay_factor=1.1,
            suppress_tokens=[13, 14],
            begin_suppress_tokens=[15],
            top_h=0.9,
            typical_p=0.95,
            epsilon_cutoff=1e-3,
            eta_cutoff=1e-3,
        ),
    },
}


def sequence(number: int, params: Params, num_emitted: int = 6) -> Sequence:
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(0, VOCAB // 4, (10 + num_emitted,), generator=generator).tolist()
    return Sequence(WorkerJob(b"", number, 1), ids[:10], ids[10:], params)


def logits_of(num_rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


def check(raw: torch.Tensor, sequences: list[Sequence], tokens: list[int]) -> None:
    for row, one, token in zip(raw, sequences, tokens, strict=True):
        scores = plain_scores(row, one.ids.tolist(), one.num_prompt, one.params)
        assert scores.max() - scores[token] < MARGIN, one.params


@pytest.mark.parametrize("name", FEATURES)
def test_one_feature(name: str) -> None:
    sampler = Sampler(VOCAB, CPU)
    sequences = [sequence(number, Params(99, seed=number, **FEATURES[name])) for number in range(60)]
    raw = logits_of(60)
    before = raw.clone()
    tokens = [one.token for one in sampler.sample(raw, sequences)]
    assert torch.equal(raw, before)
    check(raw, sequences, tokens)


def test_all_features_in_one_batch_over_several_steps() -> None:
    sampler = Sampler(VOCAB, CPU)
    params = [Params(99, seed=2**63 + number, **feature) for number, feature in enumerate(FEATURES.values())]
    sequences = [sequence(number, one, num_emitted=number % 3) for number, one in enumerate(params)]
    for turn in range(12):
        raw = logits_of(len(sequences), seed=turn)
        tokens = [one.token for one in sampler.sample(raw, sequences)]
        check(raw, sequences, tokens)
        for one, token in zip(sequences, tokens, strict=True):
            one.ids.append(token)
            one.num_tokens += 1
        if turn % 4 == 3:  # the batch changes; one comes back as another, one is new
            sampler.forget(sequences.pop(turn))
            sequences.append(sequence(100 + turn, params[-1]))


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    params = [Params(99, seed=5 + number, **feature) for number, feature in enumerate(FEATURES.values())]
    sequences = [sequence(number, one) for number, one in enumerate(params)]
    raw = logits_of(len(sequences))
    together = [one.token for one in Sampler(VOCAB, CPU).sample(raw, sequences)]
    alone = [Sampler(VOCAB, CPU).sample(raw[row : row + 1], [one])[0].token for row, one in enumerate(sequences)]
    assert together == alone


@pytest.mark.parametrize("limited", [{"top_k": 2}, {"top_k": 3, "top_p": 0.5}])
def test_a_limited_row_does_not_limit_the_others(limited: dict[str, Any]) -> None:
    raw = torch.zeros(2, VOCAB)
    drawn = set()
    for seed in range(200):
        params = (Params(9, seed=seed, **limited), Params(9, seed=seed))
        sequences = [sequence(number, one) for number, one in enumerate(params)]
        drawn.add(Sampler(VOCAB, CPU).sample(raw + torch.linspace(0, 1, VOCAB), sequences)[1].token)
    assert len(drawn) > VOCAB / 2


def test_ties_at_a_threshold_all_stay() -> None:
    raw = torch.zeros(1, VOCAB)
    raw[0, 10:20] = 1.0
    for feature in ({"top_k": 3}, {"top_p": 0.01}):
        sampler = Sampler(VOCAB, CPU)
        drawn = set()
        for seed in range(300):
            drawn.add(sampler.sample(raw, [sequence(seed, Params(9, seed=seed, **feature))])[0].token)
        assert drawn == set(range(10, 20))


def test_frequencies_are_those_of_the_distribution() -> None:
    num = 20_000
    row = torch.linspace(0, 3, VOCAB)
    one = Params(num, temperature=1.5, top_k=12, seed=77)
    sequences = [Sequence(WorkerJob(b"", index, 1), [0], [0] * index, one) for index in range(200)]
    counts = torch.zeros(VOCAB)
    for seed in range(num // 200):
        for each in sequences:
            each.params = one._replace(seed=seed)
        for drawn in Sampler(VOCAB, CPU).sample(row.expand(200, -1), sequences):
            counts[drawn.token] += 1
    probs = (row / 1.5)[-12:].softmax(dim=-1)
    assert counts[:-12].sum() == 0
    chi2 = ((counts[-12:] - num * probs) ** 2 / (num * probs)).sum().item()
    assert chi2 < 35, "11 degrees of freedom: mean 11, standard deviation 4.7"


def test_noise_follows_the_emitted_index() -> None:
    raw = torch.zeros(1, VOCAB)
    params = Params(99, seed=4)
    for count in range(20):
        (drawn,) = Sampler(VOCAB, CPU).sample(raw, [sequence(0, params, num_emitted=count)])
        assert drawn.token == (-noise(4, count, VOCAB)).argmax()


@pytest.mark.parametrize("params", [Params(9, temperature=0.0), Params(9, top_k=4), Params(9, top_p=0.5, min_p=0.1)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_broken_rows_are_told_and_harm_no_neighbour(params: Params, value: float) -> None:
    raw = logits_of(3)
    raw[1] = value
    sequences = [sequence(number, params._replace(seed=number, repetition_penalty=1.2)) for number in range(3)]
    tokens = [one.token for one in Sampler(VOCAB, CPU).sample(raw, sequences)]
    assert tokens[1] == BROKEN
    check(raw[::2], sequences[::2], tokens[::2])


def test_logprobs_are_of_raw_logits_and_as_many_as_asked() -> None:
    raw = logits_of(4)
    sequences = [
        sequence(number, Params(9, temperature=0.0, logit_bias={9: 50.0}, logprobs=count))
        for number, count in enumerate((-1, 0, 3, 20))
    ]
    drawn = Sampler(VOCAB, CPU).sample(raw.bfloat16(), sequences)
    wanted = raw.bfloat16().float().log_softmax(dim=-1)
    assert [one.token for one in drawn] == [9] * 4
    assert drawn[0].logprobs is None
    for row, count in ((1, 0), (2, 3), (3, 20)):
        logprobs = drawn[row].logprobs
        assert logprobs is not None
        assert logprobs.chosen == pytest.approx(wanted[row, 9].item())
        assert logprobs.top_ids == wanted[row].topk(count).indices.tolist()
        assert logprobs.top_values == pytest.approx(wanted[row].topk(count).values.tolist())
