# ruff: noqa: ANN001, ANN202  # Triton gives a meaning of its own to annotations in kernels
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Paged attention of decodes in Triton: one query a sequence against all that the sequence keeps in the block pool.

    decode(query, key_pool, value_pool, block_table, lengths, scaling, window, softcap, sinks, out)

The work of a sequence is split along its tokens (flash-decoding), so that few long sequences fill a GPU, too; a second
kernel joins the splits. All heads that share a kv head go together, as the rows of one matrix product: keys and values
are read once for all of them.

Safe to capture in a CUDA graph: grids and memory depend on the shapes of the tensors only. Lengths and tables are read
on the device; a program whose split lies beyond its sequence's end returns at once, so a table may be as wide as the
longest context at no cost. A row of length 0 gets zeros.

Must not know of models, steps or sequences. Imports triton: import it only where kernels can run.
"""

import math
from functools import cache

import torch
import triton
import triton.language as tl

from tokenyard.workers.triton_tiles import (
    LEAST,
    LOG2E,
    absorb,
    is_exact,
    padded,
    settled,
    slots_of,
    tile_size,
    with_sink,
)

MAX_SPLITS = 64
"""Of one sequence; 64 programs for each kv head keep any GPU of today busy, and one program can join their results."""
FEW_SPLITS = 16
"""One of two sizes for which the joining kernel is compiled; the other is MAX_SPLITS."""
MAX_HEADS = 64
"""Query heads in one program; more (MQA) would not fit the registers beside the output."""
WAVES = 2
"""Programs wanted for each multiprocessor: two fit at once (tile_size), and one hides the other's waits."""


def decode(
    query: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
    out: torch.Tensor,
    *,
    block_size: int = 16,
    num_splits: int | None = None,
) -> None:
    """Attend from each row's last token to its `lengths` tokens, itself included; attention.Flavour says the rest.

    query: [B, H, D]; key_pool, value_pool: [num_slots, H_kv, D or D_v], the new token's key and value already in it;
    block_table: [B, N] int32; lengths: [B] int32, at most N * block_size; sinks: [H]; out: [B, H, D_v], written.
    `num_splits`: the most splits of one sequence; None chooses by shapes and device.
    """
    num_rows, num_heads, key_dim = query.shape
    _, num_kv_heads, value_dim = value_pool.shape
    assert query.stride(2) == key_pool.stride(2) == value_pool.stride(2) == out.stride(2) == block_table.stride(1) == 1
    group = num_heads // num_kv_heads
    heads = min(MAX_HEADS, padded(group))
    num_programs = num_kv_heads * triton.cdiv(group, heads)
    tile = tile_size(max(key_dim, value_dim), key_pool.element_size())
    if num_splits is None:
        num_tokens = min(block_table.shape[1] * block_size, window or math.inf)
        num_splits = plan_splits(num_rows * num_programs, num_tokens / tile, _num_processors(query.device))
    assert 1 <= num_splits <= MAX_SPLITS
    totals = query.new_empty(num_rows, num_heads, num_splits, value_dim, dtype=torch.float32)  # a result a split,
    masses = query.new_empty(num_rows, num_heads, num_splits, dtype=torch.float32)  # and its weight, as a log2
    _attend_split[(num_rows, num_programs, num_splits)](
        query,
        key_pool,
        value_pool,
        block_table,
        lengths,
        sinks,
        out,
        totals,
        masses,
        scaling,
        query.stride(0),
        query.stride(1),
        key_pool.stride(0),
        key_pool.stride(1),
        value_pool.stride(0),
        value_pool.stride(1),
        block_table.stride(0),
        out.stride(0),
        out.stride(1),
        GROUP=group,
        HEADS=heads,
        KEY_DIM=key_dim,
        VALUE_DIM=value_dim,
        KEY_PAD=padded(key_dim),
        VALUE_PAD=padded(value_dim),
        BLOCK_SIZE=block_size,
        TILE=tile,
        SPLIT=num_splits > 1,
        WINDOW=window or 0,
        SOFTCAP=softcap or 0.0,
        SINKS=sinks is not None,
        EXACT=is_exact(query),
        num_warps=4,
        num_stages=5,  # two tiles under way: the table of a tile takes stages, too, as keys wait for it
    )
    if num_splits > 1:
        _join_splits[(num_rows, num_heads)](
            lengths,
            sinks,
            out,
            totals,
            masses,
            num_splits,
            out.stride(0),
            out.stride(1),
            VALUE_DIM=value_dim,
            VALUE_PAD=padded(value_dim),
            TILE=tile,
            SPLITS_PAD=FEW_SPLITS if num_splits <= FEW_SPLITS else MAX_SPLITS,
            WINDOW=window or 0,
            SINKS=sinks is not None,
            num_warps=4,
        )


def plan_splits(num_programs: int, num_tiles: float, num_processors: int) -> int:
    """Splits of each sequence, so that the grid fills the device, but none is shorter than a tile."""
    wanted = min(WAVES * num_processors / num_programs, num_tiles, MAX_SPLITS)
    return max(1, math.ceil(wanted))


@cache
def _num_processors(device: torch.device) -> int:
    if device.type != "cuda":  # Triton's interpreter
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@triton.jit
def _split_size(num_tokens, num_splits, TILE: tl.constexpr):
    """Tokens in each split of a sequence: whole tiles, at least one."""
    return tl.maximum(tl.cdiv(tl.cdiv(num_tokens, num_splits), TILE), 1) * TILE


@triton.jit(do_not_specialize=["table_row"], do_not_specialize_on_alignment=["block_table", "lengths"])
def _attend_split(
    query,
    key_pool,
    value_pool,
    block_table,
    lengths,
    sinks,
    out,
    totals,
    masses,
    scaling,
    query_row,
    query_head,
    key_slot,
    key_head,
    value_slot,
    value_head,
    table_row,
    out_row,
    out_head,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_PAD: tl.constexpr,
    VALUE_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
    EXACT: tl.constexpr,
):
    """One split of one row, for HEADS query heads of one kv head."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(2)
    num_splits = tl.num_programs(2)
    programs_of_kv_head: tl.constexpr = (GROUP + HEADS - 1) // HEADS
    kv_head = tl.program_id(1) // programs_of_kv_head
    length = tl.load(lengths + row)
    first = tl.maximum(length - WINDOW, 0) if WINDOW else 0
    size = _split_size(length - first, num_splits, TILE)
    start = first + split * size
    end = tl.minimum(start + size, length)
    if SPLIT and start >= end:
        return

    of_group = (tl.program_id(1) % programs_of_kv_head) * HEADS + tl.arange(0, HEADS)
    heads = kv_head * GROUP + of_group  # [HEADS]
    is_head = of_group < GROUP
    key_dims = tl.arange(0, KEY_PAD)
    value_dims = tl.arange(0, VALUE_PAD)
    is_key = key_dims < KEY_DIM
    is_value = value_dims < VALUE_DIM
    query_at = query + row * query_row + heads[:, None] * query_head + key_dims[None, :]
    queries = tl.load(query_at, mask=is_head[:, None] & is_key[None, :], other=0.0)  # [HEADS, KEY_PAD]

    largest = tl.full([HEADS], LEAST, tl.float32)
    mass = tl.zeros([HEADS], tl.float32)
    total = tl.zeros([HEADS, VALUE_PAD], tl.float32)
    for tile_start in tl.range(start, end, TILE):
        positions = tile_start + tl.arange(0, TILE)
        is_token = positions < end
        slots = slots_of(block_table + row * table_row, positions, is_token, BLOCK_SIZE)
        key_at = key_pool + slots[None, :] * key_slot + kv_head * key_head + key_dims[:, None]
        keys = tl.load(key_at, mask=is_key[:, None] & is_token[None, :], other=0.0)  # [KEY_PAD, TILE]
        value_at = value_pool + slots[:, None] * value_slot + kv_head * value_head + value_dims[None, :]
        values = tl.load(value_at, mask=is_token[:, None] & is_value[None, :], other=0.0)  # [TILE, VALUE_PAD]
        largest, mass, total = absorb(
            queries, keys, values, is_token[None, :], largest, mass, total, scaling, SOFTCAP, EXACT
        )

    mask = is_head[:, None] & is_value[None, :]
    if SPLIT:
        num_heads = tl.num_programs(1) // programs_of_kv_head * GROUP
        cells = (row * num_heads + heads) * num_splits + split
        tl.store(totals + cells[:, None] * VALUE_DIM + value_dims[None, :], settled(mass, total), mask=mask)
        tl.store(masses + cells, largest + tl.log2(mass), mask=is_head)
    else:
        if SINKS:
            sink = tl.load(sinks + heads, mask=is_head, other=0.0)
            largest, mass, total = with_sink(largest, mass, total, sink)
        out_at = out + row * out_row + heads[:, None] * out_head + value_dims[None, :]
        tl.store(out_at, settled(mass, total).to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_splits"], do_not_specialize_on_alignment=["lengths"])
def _join_splits(
    lengths,
    sinks,
    out,
    totals,
    masses,
    num_splits,
    out_row,
    out_head,
    VALUE_DIM: tl.constexpr,
    VALUE_PAD: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS_PAD: tl.constexpr,
    WINDOW: tl.constexpr,
    SINKS: tl.constexpr,
):
    """One head of one row: the splits' results, weighed by their shares of the softmax."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    length = tl.load(lengths + row)
    num_tokens = tl.minimum(length, WINDOW) if WINDOW else length
    num_used = tl.cdiv(num_tokens, _split_size(num_tokens, num_splits, TILE))
    splits = tl.arange(0, SPLITS_PAD)
    is_used = splits < num_used  # the others' memory was never written
    value_dims = tl.arange(0, VALUE_PAD)
    cells = (row * tl.num_programs(1) + head) * num_splits + splits
    shares = tl.load(masses + cells, mask=is_used, other=float("-inf"))  # [SPLITS_PAD]
    largest = tl.maximum(tl.max(shares, 0), LEAST)
    if SINKS:
        sink = tl.load(sinks + head).to(tl.float32) * LOG2E
        largest = tl.maximum(largest, sink)
    weights = tl.exp2(shares - largest)
    mass = tl.sum(weights, 0)
    if SINKS:
        mass += tl.exp2(sink - largest)
    mask = is_used[:, None] & (value_dims < VALUE_DIM)[None, :]
    results = tl.load(totals + cells[:, None] * VALUE_DIM + value_dims[None, :], mask=mask, other=0.0)
    result = tl.sum(results * weights[:, None], 0) / tl.where(mass > 0, mass, 1.0)
    out_at = out + row * out_row + head * out_head + value_dims
    tl.store(out_at, result.to(out.dtype.element_ty), mask=value_dims < VALUE_DIM)
