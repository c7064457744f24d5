"""The sampling noise: a fixed function, evenly spread, without a trace of its inputs' order."""

import numpy as np
import pytest
import torch

from tokenyard.workers.noise import log_exponential, row_keys, vocab_words

VOCAB = 4096
CPU = torch.device("cpu")


def exponential(seeds: np.ndarray, indices: np.ndarray) -> torch.Tensor:
    """[R, VOCAB], float64."""
    keys = row_keys(seeds.astype(np.uint64), indices.astype(np.uint64))
    return log_exponential(torch.from_numpy(keys), vocab_words(VOCAB, CPU)).double().exp()


def uniform(seeds: np.ndarray, indices: np.ndarray) -> torch.Tensor:
    return 1 - (-exponential(seeds, indices)).exp()


def test_it_is_the_same_on_every_machine() -> None:
    keys = row_keys(np.array([0, 2**64 - 1], np.uint64), np.array([0, 7], np.uint64))
    assert keys.tolist() == [[1293516399, -1492722385], [-1268690762, 435292827]]
    values = log_exponential(torch.from_numpy(keys), vocab_words(4, CPU))
    assert values[0].tolist() == pytest.approx([-1.77785, -4.42976, -0.42055, 1.06073], abs=1e-4)
    assert values[1].tolist() == pytest.approx([-0.23485, -0.39012, -2.59408, -0.30529], abs=1e-4)


@pytest.mark.parametrize(
    ("seeds", "indices"),
    [
        (np.full(64, 5), np.arange(64)),  # one stream
        (np.arange(64), np.zeros(64)),  # first tokens of neighbouring seeds
        (np.arange(64) << 32, np.full(64, 9)),  # seeds that differ in high bits only
    ],
)
def test_uniform_and_independent(seeds: np.ndarray, indices: np.ndarray) -> None:
    draws = uniform(seeds, indices)  # [64, VOCAB]
    counts = torch.histc(draws, bins=256, min=0, max=1)
    expected = draws.numel() / 256
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert 150 < chi2 < 380, "255 degrees of freedom: mean 255, standard deviation 23"
    centred = (draws - 0.5) * 12**0.5
    for shift in range(1, 9):
        for other in (centred.roll(shift, 0), centred.roll(shift, 1)):
            correlation = (centred * other).mean().item()
            assert abs(correlation) < 5 / draws.numel() ** 0.5
    per_row = centred.mean(dim=1) * VOCAB**0.5
    assert per_row.abs().max() < 4.5
    assert 0.6 < per_row.var() < 1.6
    per_token = centred.mean(dim=0) * 8
    assert per_token.abs().max() < 5
    assert 0.9 < per_token.var() < 1.1


def test_argmax_samples_the_distribution() -> None:
    logits = torch.linspace(0, 6, 40).double()
    probs = logits.softmax(dim=-1)
    num = 40_000
    keys = row_keys(np.full(num, 123, np.uint64), np.arange(num, dtype=np.uint64))
    noise = log_exponential(torch.from_numpy(keys), vocab_words(40, CPU))
    counts = torch.bincount((logits - noise).argmax(dim=-1), minlength=40)
    chi2 = ((counts - num * probs) ** 2 / (num * probs)).sum().item()
    assert chi2 < 80, "39 degrees of freedom: mean 39, standard deviation 9"


def test_all_values_are_finite_at_the_ends_of_the_range() -> None:
    keys = row_keys(np.arange(2000, dtype=np.uint64), np.zeros(2000, np.uint64))
    values = log_exponential(torch.from_numpy(keys), vocab_words(VOCAB, CPU))
    assert values.isfinite().all()
    assert values.min() < -12, "8 million draws: the smallest exponential is near 1e-7"
    assert values.max() > 2.6
