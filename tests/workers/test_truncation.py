"""What is left to draw from is what transformers' own processors leave, row by row in mixed batches."""

import pytest
import torch
from transformers.generation import EpsilonLogitsWarper, EtaLogitsWarper, TypicalLogitsWarper
from transformers.generation.logits_process import TopHLogitsWarper

from tokenyard.broker.params import Params, Processors
from tokenyard.workers.truncation import Truncation, is_truncated

VOCAB = 211
CPU = torch.device("cpu")
IDS = torch.tensor([[0]])


def logits_of(seed: int, scale: float) -> torch.Tensor:
    """A row in which some tokens are masked already."""
    row = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed)) * scale
    return row.masked_fill(row < row.quantile(0.2 * (seed % 3)), -torch.inf)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0, 30.0])
def test_what_is_left_is_what_transformers_leaves(scale: float) -> None:
    shares = (0.05, 0.3, 0.7, 0.95)
    cases = [
        *[(Processors(top_h=share), TopHLogitsWarper(share)) for share in shares],
        *[(Processors(typical_p=share), TypicalLogitsWarper(share)) for share in shares],
        *[(Processors(epsilon_cutoff=share / 20), EpsilonLogitsWarper(share / 20)) for share in shares],
        *[(Processors(eta_cutoff=share / 20), EtaLogitsWarper(share / 20)) for share in shares],
    ]
    rows = [logits_of(seed, scale) for seed in range(3 * len(cases))]
    wanted = [warper(IDS, row) for row, (_, warper) in zip(rows, cases * 3, strict=True)]
    truncation = Truncation([Params(9, processors=asked) for asked, _ in cases] * 3, CPU)
    found = truncation.last(truncation.first(torch.cat(rows)))
    assert torch.equal(found.isfinite(), torch.cat(wanted).isfinite())
    assert torch.equal(found, torch.cat(wanted))
    assert (found.isfinite().sum(dim=-1) >= 1).all()


def test_rows_that_ask_for_nothing_are_left_alone() -> None:
    params = [Params(9), Params(9, processors=Processors(typical_p=0.1, top_h=0.1)), Params(9, processors=Processors())]
    rows = torch.cat([logits_of(seed, 1.0) for seed in range(3)])
    truncation = Truncation(params, CPU)
    found = truncation.last(truncation.first(rows.clone()))
    assert torch.equal(found[::2], rows[::2])
    assert found[1].isfinite().sum() < rows[1].isfinite().sum()
    assert [is_truncated(one) for one in params] == [False, True, False]
