"""Linear layers for the CPU, with their weights in the forms that suit one row and many.

float32: one row is bound by reading the weight: where bfloat16 holds it exactly (most checkpoints are of that type), it
is kept so and widened in registers, which halves the reading and changes no product. Many rows are bound by arithmetic:
oneDNN reads the weight in its own order. bfloat16, on processors that multiply it: oneDNN's order suits all numbers of
rows. What it gives stands in docs/performance.md, "Which dtype". Must not know which layers there are (tuning.py).
"""

import os
from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import nn
from torch.nn.functional import linear

PACKED_FROM = 4
"""Rows of float32. With 1 and 2, MKL's product over the plain weight takes 60 to 90 % of oneDNN's time over the packed
one; with 4 to 8 it takes 1.7 to 2.6 times as long (3072 x 512 and 16384 x 512, one thread)."""
LARGE_BYTES = 1 << 16
"""Weights from which this pays. One of 192 x 192 takes as long as MKL's product with 16 rows, 76 % of it with 31, 47 %
with 485 (one thread, AVX-512); the bundled demo model computes prompts in 84 % of the time, and decodes as before."""

MAX_PREPARED = 16
"""Products that are kept prepared, one for each number of rows and shape of weight. Each keeps room to work in, of a
megabyte or two: the 1,024 of torch's default took 2 GB over 600 lengths of prompts, these 40 MB and no more time (five
weights of the demo model). A step's decodes and a chunk of a prompt have some twelve."""
for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):  # torch's own and oneDNN's, read at the first
    os.environ.setdefault(_name, str(MAX_PREPARED))


class CpuLinear(nn.Module):
    """Takes the place of an nn.Linear of float32 or bfloat16."""

    def __init__(self, own: nn.Linear, narrow: bool) -> None:
        """`narrow`: try bfloat16 for one row of float32, which pays in compiled code only."""
        super().__init__()
        self.in_features, self.out_features = own.in_features, own.out_features
        self.bias = own.bias
        self.is_float32 = own.weight.dtype == torch.float32
        bfloat16 = own.weight.bfloat16() if narrow and self.is_float32 else None
        self.is_narrow = bfloat16 is not None and torch.equal(bfloat16.float(), own.weight)
        self.weight = nn.Parameter(bfloat16, False) if self.is_narrow and bfloat16 is not None else own.weight
        # an attribute, not a buffer: nothing but oneDNN's own product can read it
        self._packed = torch.ops.mkldnn._reorder_linear_weight(own.weight.detach())
        number = next(_NUMBERS)
        self.number = nn.Buffer(torch.tensor(number), persistent=False)
        _LAYERS[number] = self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., in]; result: [..., out]."""
        if self.is_float32 and torch.compiler.is_compiling() and x.numel() == self.in_features:
            return self._one_row(x)
        result: torch.Tensor = torch.ops.tokenyard.cpu_linear(x, self.number, self.out_features)
        return result

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """The same outside of compiled code."""
        if self.is_float32 and not self.is_narrow and x.numel() < PACKED_FROM * self.in_features:
            return linear(x, self.weight, self.bias)
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return result

    def _one_row(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_narrow:
            return linear(x, self.weight, self.bias)
        # the compiler makes one loop of it: no float32 copy of the weight ever lies in memory
        result = (self.weight.float() * x.view(1, -1)).sum(-1).view(*x.shape[:-1], self.out_features)
        return result if self.bias is None else result + self.bias


_NUMBERS = count()
_LAYERS: WeakValueDictionary[int, CpuLinear] = WeakValueDictionary()
"""torch.compile takes no packed weight, and an operator no module: compiled code names a layer by its number,
which is a tensor, as the same code serves all layers (compiled.py)."""


def _product(x: torch.Tensor, number: torch.Tensor, _: int) -> torch.Tensor:
    return _LAYERS[int(number)].product(x)


def _shape(x: torch.Tensor, _: torch.Tensor, out_features: int) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], out_features)


_LIBRARY = torch.library.Library("tokenyard", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("cpu_linear(Tensor x, Tensor number, int out_features) -> Tensor")  # type: ignore[no-untyped-call]
_LIBRARY.impl("cpu_linear", _product, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("cpu_linear", _shape, "Meta")  # type: ignore[no-untyped-call]
