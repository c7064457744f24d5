# ruff: noqa: ANN001, ANN201, ANN202  # Triton gives a meaning of its own to annotations in kernels
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""What the attention kernels share: how large a tile is, where its tokens lie, and the running softmax over tiles.

Rows are queries: some heads of one token or of several. Scores are kept in powers of 2, as exp2 is the GPU's own
instruction. Must not know how rows and tiles are dealt out to programs (triton_decode.py, triton_prefill.py).
"""

import math

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(math.log2(math.e))
LEAST = tl.constexpr(-1e30)  # below any score, and finite: -inf less -inf would be NaN


def tile_size(dim: int, element_bytes: int) -> int:
    """Tokens read at once: 16 KiB of keys, so that several tiles of two programs fit a multiprocessor's 228 KiB."""
    return max(16, min(64, (16 << 10) // (padded(dim) * element_bytes)))


def padded(size: int) -> int:
    """A side that matrix products take: a power of 2, at least 16."""
    return max(16, 1 << (size - 1).bit_length())


def is_exact(query: torch.Tensor) -> bool:
    """Whether products are of float32: TF32 would round it, and Triton's interpreter knows no bfloat16 in products."""
    return query.dtype == torch.float32 or query.device.type == "cpu"


@triton.jit
def slots_of(table, positions, is_token, BLOCK_SIZE: tl.constexpr):
    """Where a sequence's tokens lie in the pool, [TILE]; `table` points to its row of the block table."""
    blocks = tl.load(table + positions // BLOCK_SIZE, mask=is_token, other=0)
    return blocks.to(tl.int64) * BLOCK_SIZE + positions % BLOCK_SIZE


@triton.jit
def absorb(
    queries,
    keys,
    values,
    is_seen,
    largest,
    mass,
    total,
    scaling,
    SOFTCAP: tl.constexpr,
    EXACT: tl.constexpr,
):
    """The softmax's state after one more tile.

    queries: [ROWS, D]; keys: [D, TILE]; values: [TILE, D_v]; is_seen: [ROWS, TILE]; largest score, mass (the sum of
    exp2(scores - largest)): [ROWS]; total (the weighed sum of values): [ROWS, D_v].
    """
    scores = _product(queries, keys, EXACT) * scaling
    if SOFTCAP > 0:
        scores = _capped(scores, SOFTCAP)
    scores = tl.where(is_seen, scores * LOG2E, float("-inf"))
    new_largest = tl.maximum(largest, tl.max(scores, 1))
    weights = tl.exp2(scores - new_largest[:, None])
    rescale = tl.exp2(largest - new_largest)
    mass = mass * rescale + tl.sum(weights, 1)
    total = total * rescale[:, None] + _product(weights.to(values.dtype), values, EXACT)
    return new_largest, mass, total


@triton.jit
def with_sink(largest, mass, total, sink):
    """The softmax's state after a score that gives no value; `sink`: [ROWS]."""
    sink = sink.to(tl.float32) * LOG2E
    new_largest = tl.maximum(largest, sink)
    rescale = tl.exp2(largest - new_largest)
    return new_largest, mass * rescale + tl.exp2(sink - new_largest), total * rescale[:, None]


@triton.jit
def settled(mass, total):
    """The result [ROWS, D_v]; zeros for rows that saw nothing."""
    return total / tl.where(mass > 0, mass, 1.0)[:, None]


@triton.jit
def _capped(scores, SOFTCAP: tl.constexpr):
    """SOFTCAP * tanh(scores / SOFTCAP): the language has no tanh of its own."""
    falling = tl.exp2(tl.abs(scores) * (-2 * LOG2E / SOFTCAP))  # cannot overflow
    bounded = SOFTCAP * (1 - falling) / (1 + falling)
    return tl.where(scores < 0, -bounded, bounded)


@triton.jit
def _product(left, right, EXACT: tl.constexpr):
    """Matrix product, summed in float32."""
    if EXACT:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision="tf32x3" if EXACT else "tf32")
