"""The size of the KV pool."""

import psutil
import pytest
import torch

from tokenyard.broker.errors import SetupError
from tokenyard.workers.kv import KVPool, LayerShape
from tokenyard.workers.memory import CPU_BYTES, parse_kv_memory, plan_memory, shared_bytes

CPU = torch.device("cpu")
SHAPES = [LayerShape(2, 8, 8)] * 3
TOKEN_BYTES = 3 * 2 * 16 * 4
BLOCK_BYTES = 16 * TOKEN_BYTES


def plan(kv_memory: str, token_bytes: int = TOKEN_BYTES, sequence_bytes: int = 0) -> tuple[int, int]:
    return plan_memory(
        token_bytes,
        CPU,
        block_size=16,
        context_length=100,
        max_num_seqs=4,
        kv_memory=kv_memory,
        sequence_bytes=sequence_bytes,
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", CPU_BYTES), ("1GiB", 1 << 30), ("1.5 kib", 1536), ("2GB", 2 * 10**9), ("4096", 4096), ("7B", 7)],
)
def test_sizes(text: str, wanted: int) -> None:
    assert parse_kv_memory(text, CPU) == wanted


def test_shares_are_of_what_is_free() -> None:
    assert parse_kv_memory("40%", CPU) == pytest.approx(0.4 * psutil.virtual_memory().available, rel=0.1)


@pytest.mark.parametrize("text", ["lots", "1XB", "-1GiB", "0%", "101%", "GiB", "1e9"])
def test_words_for_unreadable_sizes(text: str) -> None:
    with pytest.raises(SetupError, match="--kv-memory"):
        parse_kv_memory(text, CPU)


def test_the_pool_takes_what_is_allowed_and_no_more_than_is_useful() -> None:
    assert plan(str(10 * BLOCK_BYTES + 5)) == (10, 4)
    assert plan("1GiB") == (4 * 7, 4)


def test_states_are_as_many_as_fit_beside_the_pool() -> None:
    assert plan("1GiB", sequence_bytes=1000) == (4 * 7, 4)
    assert plan(str(20 * BLOCK_BYTES), sequence_bytes=5 * BLOCK_BYTES) == (10, 2)
    assert plan("3500", token_bytes=0, sequence_bytes=1000) == (3 * 7, 3)
    with pytest.raises(SetupError, match="beside a state of 1,000"):
        plan("999", token_bytes=0, sequence_bytes=1000)


def test_a_pool_that_holds_nothing_is_refused() -> None:
    with pytest.raises(SetupError, match="raise --kv-memory"):
        plan(str(BLOCK_BYTES))


def test_memory_is_taken_only_where_it_is_written() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    pool = KVPool(SHAPES, (256 << 20) // BLOCK_BYTES, 16, torch.bfloat16, CPU)
    assert process.memory_info().rss - before < 16 << 20
    pool.write(
        2, torch.tensor([5]), torch.ones(1, 2, 8, dtype=torch.bfloat16), torch.ones(1, 2, 8, dtype=torch.bfloat16)
    )


def test_workers_of_one_device_have_even_parts() -> None:
    assert shared_bytes(free=70, total=80, used=10, num_sharers=2) == 30
    assert shared_bytes(free=20, total=80, used=10, num_sharers=2) == 20, "another has taken more than its part"
