"""CPU linear layers: nn.Linear's result in every form of the weight and for every number of rows."""

import pytest
import torch
from torch import nn

from tokenyard.workers.cpu_linear import PACKED_FROM, CpuLinear

ROWS = (0, 1, 2, PACKED_FROM - 1, PACKED_FROM, 9, 100)


def layer(bias: bool, exact: bool) -> nn.Linear:
    """`exact`: with weights that bfloat16 holds."""
    torch.manual_seed(1)
    own = nn.Linear(48, 80, bias).requires_grad_(False)
    if exact:
        own.weight.copy_(own.weight.bfloat16())
    return own


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("exact", "narrow"), [(False, False), (True, False), (True, True)])
def test_every_form_gives_the_product(bias: bool, exact: bool, narrow: bool) -> None:
    own = layer(bias, exact)
    ours = CpuLinear(own, narrow)
    assert ours.is_narrow == (exact and narrow)
    for rows in ROWS:
        x = torch.randn(1, rows, 48)
        torch.testing.assert_close(ours(x), own(x))
        if rows == 1:
            torch.testing.assert_close(ours._one_row(x), own(x))


@pytest.mark.parametrize("bias", [False, True])
def test_bfloat16_gives_the_product(bias: bool) -> None:
    own = layer(bias, exact=True).bfloat16()
    ours = CpuLinear(own, narrow=True)
    assert not ours.is_narrow
    assert ours.weight is own.weight
    for rows in ROWS:
        x = torch.randn(1, rows, 48, dtype=torch.bfloat16)
        torch.testing.assert_close(ours(x), own(x))


def test_weights_that_would_change_are_not_narrowed() -> None:
    own = layer(bias=False, exact=False)
    ours = CpuLinear(own, narrow=True)
    assert not ours.is_narrow
    assert ours.weight is own.weight


def test_a_narrow_weight_is_all_that_is_kept_beside_the_packed_one() -> None:
    ours = CpuLinear(layer(bias=False, exact=True), narrow=True)
    assert ours.weight.dtype == torch.bfloat16
    assert sum(one.nbytes for one in ours.parameters()) == 48 * 80 * 2
