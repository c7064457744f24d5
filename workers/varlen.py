"""Prefill through torch's own flash attention, `varlen_attn`, over keys packed like the queries.

That kernel can read block tables, but only of blocks of 256 tokens (FlashAttention 2, which torch 2.11 to 2.13 have
built in; ours have 16). So where a chunk follows earlier tokens, the keys of all sequences are gathered first.
"""

import inspect
from typing import Any

import torch

from tokenyard.workers.attention import Flavour
from tokenyard.workers.chunks import Chunks

MAX_DIM = 256
"""Of FlashAttention 2."""
MIN_CAPABILITY = (8, 0)
"""Of FlashAttention 2: Ampere and newer."""


def fits(query: torch.Tensor, value: torch.Tensor, flavour: Flavour) -> bool:
    """Whether torch's kernel knows this. query: [T, H, D]; value: [T, H_kv, D_v]."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[2] == value.shape[2] <= MAX_DIM
        and query.shape[2] % 8 == 0
        and flavour.softcap is None
        and flavour.sinks is None
        and torch.cuda.get_device_capability(query.device) >= MIN_CAPABILITY
    )


def prefill(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, chunks: Chunks, flavour: Flavour
) -> torch.Tensor:
    """Attend from each query [T, H, D] to its sequence's tokens up to itself; keys, values: packed_keys()."""
    from torch.nn.attention.varlen import varlen_attn  # a second of import, which CPU workers need not wait for

    # torch 2.11 does not ask to be told that heads are grouped
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    attended = varlen_attn(
        query,
        keys,
        values,
        chunks.starts,
        chunks.starts if chunks.are_whole else chunks.key_starts,
        chunks.max_queries,
        chunks.max_length,
        scale=flavour.scaling,
        window_size=(flavour.window - 1 if flavour.window else -1, 0),  # of tokens before, of tokens after
        **grouped,
    )
    assert isinstance(attended, torch.Tensor)
    return attended


def packed_keys(
    key: torch.Tensor, value: torch.Tensor, key_pool: torch.Tensor, value_pool: torch.Tensor, chunks: Chunks
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of all sequences up to their chunks' ends, [K, H_kv, D or D_v]; key, value: the chunks' own."""
    if chunks.are_whole:
        return key, value
    return key_pool.index_select(0, chunks.key_slots), value_pool.index_select(0, chunks.key_slots)
