"""The prefill kernel against a plain softmax in float32."""

import pytest
import torch
from pages import BLOCK, DEVICE, TOLERANCE, Pages

from tokenyard.workers.attention import Flavour
from tokenyard.workers.chunks import Chunks
from tokenyard.workers.triton_prefill import prefill

SPANS = [(0, 1), (0, 40), (3, 19), (63, 65), (60, 130), (100, 101)]
"""Chunks [start, end) of one sequence each: whole prompts, and such that follow earlier tokens, across borders."""


def chunks_of(pages: Pages, spans: list[tuple[int, int]]) -> Chunks:
    counts = [end - start for start, end in spans]
    starts = torch.tensor([0, *counts], device=DEVICE).cumsum(0).int()
    return Chunks([(end - start, end) for start, end in spans], BLOCK, pages.table, starts, pages.lengths)


def check(
    pages: Pages, spans: list[tuple[int, int]], num_heads: int, flavour: Flavour, tolerance: float = 1e-5
) -> None:
    chunks = chunks_of(pages, spans)
    parts = [pages.queries(end - start, num_heads) for start, end in spans]
    query = torch.cat(parts).transpose(0, 1).contiguous().transpose(0, 1)  # as transformers leaves it, [1, H, T, D]
    out = pages.room(query)
    prefill(query, pages.key_pool, pages.value_pool, chunks, flavour, out)
    wanted = torch.cat([pages.expected(row, part, flavour) for row, part in enumerate(parts)])
    torch.testing.assert_close(out.float(), wanted, atol=tolerance, rtol=0)


def ends(spans: list[tuple[int, int]]) -> list[int]:
    return [end for _, end in spans]


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(2, 2), (4, 2), (7, 1), (8, 1)])
def test_heads_that_share_keys(num_heads: int, num_kv_heads: int) -> None:
    check(Pages(ends(SPANS), num_kv_heads), SPANS, num_heads, Flavour(0.4, None, None, None))


@pytest.mark.parametrize("window", [1, 5, BLOCK, 64, 1000])
def test_windows(window: int) -> None:
    check(Pages(ends(SPANS), 1), SPANS, 2, Flavour(0.4, window, None, None))


@pytest.mark.parametrize("window", [None, 20])
def test_softcap_and_sinks(window: int | None) -> None:
    sinks = torch.linspace(-1, 2, 4, device=DEVICE)
    check(Pages(ends(SPANS)), SPANS, 4, Flavour(0.4, window, 1.5, sinks))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("key_dim", "value_dim"), [(80, 80), (24, 40)])
def test_any_size_of_heads(key_dim: int, value_dim: int, dtype: torch.dtype) -> None:
    pages = Pages([30, 70], 1, key_dim, value_dim, dtype)
    check(pages, [(0, 30), (50, 70)], 4, Flavour(key_dim**-0.5, None, None, None), TOLERANCE[dtype])


def test_more_heads_than_rows() -> None:
    check(Pages([20], 1), [(17, 20)], 71, Flavour(0.4, None, None, None))
