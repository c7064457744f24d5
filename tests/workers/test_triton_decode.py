"""The decode kernel against a plain softmax in float32."""

import pytest
import torch
from pages import BLOCK, DEVICE, TOLERANCE, Pages
from tape import record

from tokenyard.workers.attention import Flavour
from tokenyard.workers.triton_decode import MAX_SPLITS, decode, plan_splits
from tokenyard.workers.triton_tiles import tile_size

SCALING = 0.4
TILE = tile_size(16, 4)
LENGTHS = [1, BLOCK - 1, BLOCK, BLOCK + 1, TILE - 1, TILE, TILE + 1, 2 * TILE, 3 * TILE + 5]
"""Across the borders of blocks, tiles and splits."""


def check(
    pages: Pages, num_heads: int, flavour: Flavour, num_splits: int | None = None, tolerance: float = 1e-5
) -> None:
    query = pages.queries(len(pages.lengths), num_heads)
    out = pages.room(query)
    decode(query, pages.key_pool, pages.value_pool, pages.table, pages.lengths, *flavour, out, num_splits=num_splits)
    wanted = torch.cat([pages.expected(row, query[row : row + 1], flavour) for row in range(len(query))])
    torch.testing.assert_close(out.float(), wanted, atol=tolerance, rtol=0)


def flavour(window: int | None = None, softcap: float | None = None, num_sinks: int = 0) -> Flavour:
    sinks = torch.linspace(-1, 2, num_sinks, device=DEVICE) if num_sinks else None
    return Flavour(SCALING, window, softcap, sinks)


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(2, 2), (4, 2), (4, 1), (7, 1), (8, 1)])
def test_heads_that_share_keys(num_heads: int, num_kv_heads: int, num_splits: int) -> None:
    check(Pages(LENGTHS, num_kv_heads), num_heads, flavour(), num_splits)


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("window", [1, 5, BLOCK, TILE, TILE + 1, 1000])
def test_windows(window: int, num_splits: int) -> None:
    check(Pages(LENGTHS, 1), 2, flavour(window), num_splits)


def test_many_splits() -> None:
    """More than FEW_SPLITS, most of them beyond the sequences' ends."""
    check(Pages([1, 17 * TILE + 1], 1), 2, flavour(), 18)


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("chosen", [{"softcap": 2.0}, {"num_sinks": 4}, {"window": 40, "softcap": 1.5, "num_sinks": 4}])
def test_softcap_and_sinks(chosen: dict[str, float], num_splits: int) -> None:
    check(Pages(LENGTHS, 2), 4, flavour(**chosen), num_splits)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("key_dim", "value_dim"), [(80, 80), (24, 40), (96, 64)])
def test_any_size_of_heads(key_dim: int, value_dim: int, dtype: torch.dtype) -> None:
    pages = Pages([1, 70, 130], 1, key_dim, value_dim, dtype)
    check(pages, 4, Flavour(key_dim**-0.5, None, None, None), 2, TOLERANCE[dtype])


def test_more_heads_than_one_program_takes() -> None:
    check(Pages([3, 40], 1), 71, flavour(num_sinks=71), 2)
    check(Pages([3, 40], 2), 142, flavour(), 1)


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("num_sinks", [0, 4])
def test_rows_of_padding_give_zeros(num_sinks: int, num_splits: int) -> None:
    check(Pages([0, 70, 0]), 4, flavour(num_sinks=num_sinks), num_splits)


def test_any_layout_of_the_input() -> None:
    """A table that lies within rows of other words, and queries as transformers leaves them, [1, H, T, D]."""
    pages = Pages(LENGTHS)
    words = torch.zeros(len(LENGTHS), pages.table.shape[1] + 2, dtype=torch.int32, device=DEVICE)
    words[:, 2:] = pages.table
    pages.table = words[:, 2:]
    query = pages.queries(4, len(LENGTHS)).transpose(0, 1)
    out = pages.room(query)
    decode(query, pages.key_pool, pages.value_pool, pages.table, pages.lengths, *flavour(), out)
    for row in range(len(LENGTHS)):
        torch.testing.assert_close(out[row : row + 1], pages.expected(row, query[row : row + 1], flavour()))


def test_nothing_waits_for_the_device() -> None:
    """What a CUDA graph could not record is refused by its stand-in, too."""
    pages = Pages(LENGTHS)
    query = pages.queries(len(LENGTHS), 4)
    out = pages.room(query)
    record(lambda: decode(query, pages.key_pool, pages.value_pool, pages.table, pages.lengths, *flavour(), out))


def test_splits_fill_the_device_but_keep_a_tile_each() -> None:
    assert plan_splits(num_programs=8, num_tiles=1000, num_processors=132) == 33
    assert plan_splits(num_programs=1, num_tiles=1000, num_processors=132) == MAX_SPLITS
    assert plan_splits(num_programs=8, num_tiles=2, num_processors=132) == 2
    assert plan_splits(num_programs=2048, num_tiles=1000, num_processors=132) == 1
    assert plan_splits(num_programs=8, num_tiles=0.25, num_processors=132) == 1
