"""Sequences whose keys and values lie scattered in a block pool, and what a plain softmax in float32 makes of them."""

import torch

from tokenyard.workers.attention import Flavour

BLOCK = 16
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Of kernels under test; on CPU, Triton's interpreter runs them (tests/conftest.py)."""
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}
"""Of results near 1: some 100 units of float32's last place, as sums go in another order; 4 or 5 of the others'."""
NO_BLOCK = 1 << 30
"""Pads block tables: whoever reads there is far outside the pool."""


def plain_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, flavour: Flavour) -> torch.Tensor:
    """The last tokens' query [Q, H, D] on all of key, value [L, H_kv, D or D_v]; result [Q, H, D_v], float32."""
    length, num_kv_heads, _ = key.shape
    num_queries, num_heads, _ = query.shape
    key, value = (one.float().repeat_interleave(num_heads // num_kv_heads, dim=1) for one in (key, value))
    scores = torch.einsum("qhd,lhd->hql", query.float(), key) * flavour.scaling
    if flavour.softcap:
        scores = flavour.softcap * torch.tanh(scores / flavour.softcap)
    distance = torch.arange(length - num_queries, length).unsqueeze(1) - torch.arange(length)
    hidden = (distance < 0) | (distance >= (flavour.window or length))
    scores = scores.masked_fill(hidden.to(scores.device), -torch.inf)
    if flavour.sinks is not None:
        scores = torch.cat([scores, flavour.sinks.float().view(-1, 1, 1).expand(-1, num_queries, 1)], dim=2)
    return torch.einsum("hql,lhd->qhd", scores.softmax(dim=2)[:, :, :length], value)


class Pages:
    """Random keys and values of some sequences; all else in the pool is NaN, which nothing may read."""

    def __init__(
        self,
        lengths: list[int],
        num_kv_heads: int = 2,
        key_dim: int = 16,
        value_dim: int = 16,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        torch.manual_seed(sum(lengths))
        needed = [-(-length // BLOCK) for length in lengths]
        num_slots = (sum(needed) + 2) * BLOCK
        self.lengths = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
        self.key_pool = torch.full((num_slots, num_kv_heads, key_dim), torch.nan, dtype=dtype, device=DEVICE)
        self.value_pool = torch.full((num_slots, num_kv_heads, value_dim), torch.nan, dtype=dtype, device=DEVICE)
        self.table = torch.full((len(lengths), max(needed) + 1), NO_BLOCK, dtype=torch.int32, device=DEVICE)
        self.slots = []
        self.keys = []
        self.values = []
        order = torch.randperm(sum(needed) + 2).to(DEVICE)
        for row, (length, count) in enumerate(zip(lengths, needed, strict=True)):
            blocks, order = order[:count], order[count:]
            self.table[row, :count] = blocks
            slots = (blocks.unsqueeze(1) * BLOCK + torch.arange(BLOCK, device=DEVICE)).flatten()[:length]
            self.slots.append(slots)
            self.keys.append(torch.randn(length, num_kv_heads, key_dim, device=DEVICE).to(dtype))
            self.values.append(torch.randn(length, num_kv_heads, value_dim, device=DEVICE).to(dtype))
            self.key_pool[slots] = self.keys[-1]
            self.value_pool[slots] = self.values[-1]

    def queries(self, count: int, num_heads: int) -> torch.Tensor:
        """Random, [count, H, D]."""
        return torch.randn(count, num_heads, self.key_pool.shape[2], device=DEVICE).to(self.key_pool.dtype)

    def room(self, query: torch.Tensor) -> torch.Tensor:
        """Where results go, [Q, H, D_v], NaN until written."""
        return query.new_full((*query.shape[:2], self.value_pool.shape[2]), torch.nan)

    def expected(self, row: int, query: torch.Tensor, flavour: Flavour) -> torch.Tensor:
        """What the last tokens' query [Q, H, D] of one sequence gives, [Q, H, D_v]; zeros for an empty one."""
        if not len(self.keys[row]):
            return self.room(query).float().zero_()
        return plain_attention(query, self.keys[row], self.values[row], flavour)
