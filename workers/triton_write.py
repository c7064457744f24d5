# ruff: noqa: ANN001, ANN202  # Triton gives a meaning of its own to annotations in kernels
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Writes a step's keys and values into the block pool: one launch for both, from any memory layout.

Safe to capture in a CUDA graph. Must not know of models, steps or sequences. Imports triton: import it only where
kernels can run.
"""

import torch
import triton
import triton.language as tl

from tokenyard.workers.triton_tiles import padded


def write(
    key: torch.Tensor, value: torch.Tensor, key_pool: torch.Tensor, value_pool: torch.Tensor, slots: torch.Tensor
) -> None:
    """Put each token in its slot. key, value: [T, H_kv, D or D_v]; pools: [num_slots, H_kv, D or D_v]; slots: [T].

    Where several tokens have one slot (padding), any of them is left there.
    """
    num_tokens, num_kv_heads, key_dim = key.shape
    value_dim = value.shape[2]
    assert key.stride(2) == value.stride(2) == key_pool.stride(2) == value_pool.stride(2) == 1
    _write[(num_tokens, num_kv_heads)](
        key,
        value,
        key_pool,
        value_pool,
        slots,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        key_pool.stride(0),
        key_pool.stride(1),
        value_pool.stride(0),
        value_pool.stride(1),
        KEY_DIM=key_dim,
        VALUE_DIM=value_dim,
        PAD=padded(max(key_dim, value_dim)),
        num_warps=1,
    )


@triton.jit
def _write(
    key,
    value,
    key_pool,
    value_pool,
    slots,
    key_token,
    key_head,
    value_token,
    value_head,
    key_pool_slot,
    key_pool_head,
    value_pool_slot,
    value_pool_head,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    PAD: tl.constexpr,
):
    """One head of one token."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    slot = tl.load(slots + token).to(tl.int64)
    dims = tl.arange(0, PAD)
    is_key = dims < KEY_DIM
    is_value = dims < VALUE_DIM
    new_key = tl.load(key + token * key_token + head * key_head + dims, mask=is_key)
    new_value = tl.load(value + token * value_token + head * value_head + dims, mask=is_value)
    tl.store(key_pool + slot * key_pool_slot + head * key_pool_head + dims, new_key, mask=is_key)
    tl.store(value_pool + slot * value_pool_slot + head * value_pool_head + dims, new_value, mask=is_value)
