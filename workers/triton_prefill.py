# ruff: noqa: ANN001, ANN202  # Triton gives a meaning of its own to annotations in kernels
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Paged attention of prefill chunks in Triton: the queries of several sequences, packed one sequence after another.

A chunk may follow tokens that are in the block pool already; its own keys and values must be there, too. Programs get
tiles of queries: all heads of one kv head of some neighbouring tokens.

Must not know of models, steps or sequences. Imports triton: import it only where kernels can run.
"""

import torch
import triton
import triton.language as tl

from tokenyard.workers.attention import Flavour
from tokenyard.workers.chunks import Chunks
from tokenyard.workers.triton_tiles import LEAST, absorb, is_exact, padded, settled, slots_of, tile_size, with_sink

ROW_BYTES = 128
"""Of a column of the queries in one program, tokens times heads: 64 rows of bfloat16 or 32 of float32 fit the registers
of four warps beside the output, and the shared memory of smaller GPUs."""


def prefill(
    query: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    chunks: Chunks,
    flavour: Flavour,
    out: torch.Tensor,
) -> None:
    """Attend from each query to its sequence's tokens up to itself.

    query: [T, H, D]; key_pool, value_pool: [num_slots, H_kv, D or D_v]; out: [T, H, D_v], written.
    """
    _, num_heads, key_dim = query.shape
    _, num_kv_heads, value_dim = value_pool.shape
    assert query.stride(2) == key_pool.stride(2) == value_pool.stride(2) == out.stride(2) == chunks.table.stride(1) == 1
    group = num_heads // num_kv_heads
    rows = max(ROW_BYTES // query.element_size(), padded(group))
    num_tiles = triton.cdiv(chunks.max_queries, rows // group)
    _attend_tile[(len(chunks.lengths), num_kv_heads, num_tiles)](
        query,
        key_pool,
        value_pool,
        chunks.table,
        chunks.starts,
        chunks.lengths,
        flavour.sinks,
        out,
        flavour.scaling,
        query.stride(0),
        query.stride(1),
        key_pool.stride(0),
        key_pool.stride(1),
        value_pool.stride(0),
        value_pool.stride(1),
        chunks.table.stride(0),
        out.stride(0),
        out.stride(1),
        GROUP=group,
        ROWS=rows,
        KEY_DIM=key_dim,
        VALUE_DIM=value_dim,
        KEY_PAD=padded(key_dim),
        VALUE_PAD=padded(value_dim),
        BLOCK_SIZE=chunks.block_size,
        TILE=tile_size(max(key_dim, value_dim), key_pool.element_size()),
        WINDOW=flavour.window or 0,
        SOFTCAP=flavour.softcap or 0.0,
        SINKS=flavour.sinks is not None,
        EXACT=is_exact(query),
        num_warps=4,
        num_stages=2 if is_exact(query) else 3,
    )


@triton.jit(do_not_specialize=["table_row"], do_not_specialize_on_alignment=["block_table", "starts", "lengths"])
def _attend_tile(
    query,
    key_pool,
    value_pool,
    block_table,
    starts,
    lengths,
    sinks,
    out,
    scaling,
    query_token,
    query_head,
    key_slot,
    key_head,
    value_slot,
    value_head,
    table_row,
    out_token,
    out_head,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_PAD: tl.constexpr,
    VALUE_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Some neighbouring queries of one sequence, with all heads of one kv head."""
    tokens: tl.constexpr = ROWS // GROUP
    sequence = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    start = tl.load(starts + sequence)
    num_queries = tl.load(starts + sequence + 1) - start
    # the last queries see the most keys: they begin first, so that none is left alone at the end
    first = (tl.num_programs(2) - 1 - tl.program_id(2)) * tokens
    if first >= num_queries:
        return
    before = tl.load(lengths + sequence) - num_queries
    end = before + tl.minimum(first + tokens, num_queries)  # of the keys that these queries see
    seen_first = tl.maximum(before + first - WINDOW + 1, 0) // TILE * TILE if WINDOW else 0

    rows = tl.arange(0, ROWS)
    token = first + rows // GROUP  # of the sequence's queries
    head = kv_head * GROUP + rows % GROUP
    is_row = (rows < tokens * GROUP) & (token < num_queries)
    key_dims = tl.arange(0, KEY_PAD)
    value_dims = tl.arange(0, VALUE_PAD)
    is_key = key_dims < KEY_DIM
    is_value = value_dims < VALUE_DIM
    packed = (start + token).to(tl.int64)
    query_at = query + packed[:, None] * query_token + head[:, None] * query_head + key_dims[None, :]
    queries = tl.load(query_at, mask=is_row[:, None] & is_key[None, :], other=0.0)  # [ROWS, KEY_PAD]

    largest = tl.full([ROWS], LEAST, tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS, VALUE_PAD], tl.float32)
    for tile_start in tl.range(seen_first, end, TILE):
        positions = tile_start + tl.arange(0, TILE)
        is_token = positions < end
        slots = slots_of(block_table + sequence * table_row, positions, is_token, BLOCK_SIZE)
        key_at = key_pool + slots[None, :] * key_slot + kv_head * key_head + key_dims[:, None]
        keys = tl.load(key_at, mask=is_key[:, None] & is_token[None, :], other=0.0)  # [KEY_PAD, TILE]
        value_at = value_pool + slots[:, None] * value_slot + kv_head * value_head + value_dims[None, :]
        values = tl.load(value_at, mask=is_token[:, None] & is_value[None, :], other=0.0)  # [TILE, VALUE_PAD]
        distance = (before + token)[:, None] - positions[None, :]
        is_seen = distance >= 0
        if WINDOW:
            is_seen &= distance < WINDOW
        largest, mass, total = absorb(queries, keys, values, is_seen, largest, mass, total, scaling, SOFTCAP, EXACT)

    if SINKS:
        sink = tl.load(sinks + head, mask=is_row, other=0.0)
        largest, mass, total = with_sink(largest, mass, total, sink)
    out_at = out + packed[:, None] * out_token + head[:, None] * out_head + value_dims[None, :]
    tl.store(out_at, settled(mass, total).to(out.dtype.element_ty), mask=is_row[:, None] & is_value[None, :])
