"""Whatever a broker's sockets bring to a front, a worker or an agent, nobody dies or grows of it, and requests are
answered meanwhile.
"""

import os
import time
from typing import Any

import pytest
from bystander import MODEL, check_unharmed
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from meddler import MeddledYard, words
from yard import wait_until

pytestmark = pytest.mark.faults

CAMPAIGN_S = float(os.environ.get("TOKENYARD_FUZZ_S", "60"))


def test_peers_take_no_harm_from_what_their_broker_says() -> None:
    yard = MeddledYard()
    try:
        status: dict[str, Any] = yard.status()
        (front,), (worker,), (agent,) = status["fronts"], status["workers"], status["agents"]
        victims = [bytes.fromhex(one["inc"]) for one in (front, worker, agent)]
        pids = {"front": yard.front.pid, "worker": worker["pid"], "agent": yard.agent.pid, "broker": yard.broker.pid}
        check_unharmed(pids, yard.url, yard.run_dir, lambda: meddle(yard, victims))
    finally:
        yard.close()


def meddle(yard: MeddledYard, victims: list[bytes]) -> int:
    """How often something was said."""
    num_words, ends_s = 0, time.monotonic() + CAMPAIGN_S

    @settings(
        max_examples=100,
        database=None,
        phases=[Phase.generate],  # a pool that is hurt shows it only once
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(words(MODEL, victims), min_size=10, max_size=20))
    def say(some: list[tuple[str, list[bytes]]]) -> None:
        nonlocal num_words
        for role, frames in some:
            yard.meddler.say(role, frames)
            num_words += 1
        wait_until(yard.meddler.heard_all, "the meddler to have said it", 10)

    while time.monotonic() < ends_s:
        say()
    return num_words
