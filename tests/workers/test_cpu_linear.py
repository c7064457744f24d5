"""CPU linear layers: nn.Linear's result in every form of the weight and for every number of rows."""

import os
import subprocess
import sys

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


LENGTHS = """
import psutil, torch
from tokenyard.workers.cpu_linear import CpuLinear
torch.set_num_threads(1)
layers = [CpuLinear(torch.nn.Linear(width, 576), narrow=False) for width in (192, 256, 384, 512)]
memory = psutil.Process().memory_full_info
with torch.inference_mode():
    for layer in layers:
        layer(torch.ones(400, layer.in_features))
    before = memory().uss
    for length in range(100, 400, 3):
        for layer in layers:
            layer(torch.ones(length, layer.in_features))
print((memory().uss - before) >> 20)
"""


def test_prompts_of_many_lengths_take_no_memory_each() -> None:
    """In a process of its own, as torch reads its limits once."""
    unset = {name: value for name, value in os.environ.items() if not name.endswith("_CACHE_CAPACITY")}
    run = subprocess.run([sys.executable, "-c", LENGTHS], env=unset, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 64, "MiB, of 400 products"
