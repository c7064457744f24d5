"""A front or a broker that stands still for ever: it is killed after a minute, and another takes its place."""

from collections.abc import Iterator

import httpx
import psutil
import pytest
from served import Served
from yard import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults]

ROLES = ("front", "broker")


@pytest.fixture
def pools() -> Iterator[dict[str, Served]]:
    """One for each role, so that the minute passes once."""
    pools = {role: Served() for role in ROLES}
    try:
        for pool in pools.values():
            pool.wait_ready()
        yield pools
    finally:
        for pool in pools.values():
            pool.close()


def is_replaced(pool: Served, role: str, stuck: psutil.Process) -> bool:
    return [one.pid for one in pool.children(role)] not in ([], [stuck.pid])


def test_what_stands_still_for_ever_is_replaced(pools: dict[str, Served]) -> None:
    stuck = {role: pool.children(role)[0] for role, pool in pools.items()}
    for process in stuck.values():
        process.suspend()
    body = {"model": "tokenyard-demo", "prompt": "Hello!", "max_tokens": 4}
    for role, pool in pools.items():
        wait_until(lambda role=role, pool=pool: is_replaced(pool, role, stuck[role]), f"the next {role}")  # type: ignore[misc]
        assert httpx.post(f"{pool.url}/v1/completions", json=body, timeout=60).status_code == 200
        assert f"(pid {stuck[role].pid}): hung: it is silent" in pool.log()
