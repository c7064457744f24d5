"""What flash attention is given, and when; it runs in test_packed_step.py where there is a GPU."""

import pytest
import torch
from pages import BLOCK, DEVICE, Pages

from tokenyard.workers.attention import Flavour
from tokenyard.workers.chunks import Chunks
from tokenyard.workers.varlen import fits, packed_keys

PLAIN = Flavour(0.25, None, None, None)


def chunks_of(pages: Pages, sizes: list[tuple[int, int]]) -> Chunks:
    starts = torch.tensor([0, *(count for count, _ in sizes)], device=DEVICE).cumsum(0).int()
    return Chunks(sizes, BLOCK, pages.table, starts, pages.lengths)


def test_keys_of_all_sequences_are_gathered() -> None:
    pages = Pages([20, 1, 48])
    key, value = torch.cat(pages.keys), torch.cat(pages.values)
    own = torch.empty(0)
    chunks = chunks_of(pages, [(5, 20), (1, 1), (30, 48)])
    keys, values = packed_keys(own, own, pages.key_pool, pages.value_pool, chunks)
    assert torch.equal(keys, key)
    assert torch.equal(values, value)
    assert chunks.key_starts.tolist() == [0, 20, 21, 69]


def test_whole_prompts_bring_their_own_keys() -> None:
    pages = Pages([20, 1])
    key, value = torch.cat(pages.keys), torch.cat(pages.values)
    keys, values = packed_keys(key, value, pages.key_pool, pages.value_pool, chunks_of(pages, [(20, 20), (1, 1)]))
    assert keys is key
    assert values is value


@pytest.mark.parametrize(
    ("dtype", "dims", "flavour"),
    [
        (torch.float32, (64, 64), PLAIN),
        (torch.bfloat16, (64, 32), PLAIN),
        (torch.bfloat16, (512, 512), PLAIN),
        (torch.bfloat16, (20, 20), PLAIN),
        (torch.bfloat16, (64, 64), PLAIN._replace(softcap=30.0)),
        (torch.bfloat16, (64, 64), PLAIN._replace(sinks=torch.zeros(2))),
    ],
)
def test_what_flash_attention_does_not_know(dtype: torch.dtype, dims: tuple[int, int], flavour: Flavour) -> None:
    query, value = (torch.empty(1, 2, dim, dtype=dtype, device=DEVICE) for dim in dims)
    assert not fits(query, value, flavour)


def test_flash_attention_needs_a_gpu() -> None:
    query = torch.empty(1, 2, 64, dtype=torch.bfloat16, device=DEVICE)
    assert fits(query, query, PLAIN) == (DEVICE.type == "cuda")
