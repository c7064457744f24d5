"""The writing kernel puts each token where it belongs, and touches nothing else."""

import torch
from pages import DEVICE

from tokenyard.workers.kv import copy_in
from tokenyard.workers.triton_write import write


def test_tokens_land_in_their_slots() -> None:
    torch.manual_seed(0)
    key = torch.randn(1, 3, 7, 24, device=DEVICE)[0].transpose(0, 1)  # as transformers leaves them, [1, H_kv, T, D]
    value = torch.randn(7, 3, 40, device=DEVICE)
    slots = torch.tensor([5, 0, 31, 30, 29, 11, 10], device=DEVICE)
    pools = [torch.randn(32, 3, dim, device=DEVICE) for dim in (24, 40)]
    wanted = [pool.clone() for pool in pools]
    copy_in(key, value, wanted[0], wanted[1], slots)
    write(key, value, pools[0], pools[1], slots)
    assert torch.equal(pools[0], wanted[0])
    assert torch.equal(pools[1], wanted[1])


def test_padding_may_share_a_slot() -> None:
    key = torch.arange(4.0, device=DEVICE).view(4, 1, 1).expand(4, 2, 16).contiguous()
    key_pool, value_pool = torch.full((8, 2, 16), -1.0, device=DEVICE), torch.full((8, 2, 16), -1.0, device=DEVICE)
    write(key, key, key_pool, value_pool, torch.tensor([3, 7, 7, 7], device=DEVICE))
    assert set(key_pool[7].flatten().tolist()) <= {1.0, 2.0, 3.0}
    assert (key_pool[3] == 0).all()
    assert (key_pool[[0, 1, 2, 4, 5, 6]] == -1).all()
