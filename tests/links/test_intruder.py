"""Whatever a local process says at a pool's doors, nobody dies or grows of it, and requests are answered meanwhile."""

import os
import time
from typing import Any

import httpx
import psutil
import pytest
import zmq
from bystander import MODEL, Client, check_unharmed
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from intruder import Blow, Intruder, blows, certain
from tcp_yard import TcpYard
from yard import START_S, Yard, wait_until

from tokenyard.broker.curve import read_keys
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.sockets import dial

pytestmark = pytest.mark.slow

QUICK = 25
"""Lists of up to 20 blows: two seconds."""
CAMPAIGN_S = float(os.environ.get("TOKENYARD_FUZZ_S", "120"))
"""Of the whole run; scripts/fuzz.sh says how long."""
INTRODUCE_S = 1.0
"""Between two times that the intruder says who it is; after SILENCE_S without a word it would be forgotten."""


def fuzz(intruder: Intruder, victims: list[bytes], num_examples: int, is_known: bool) -> int:
    """How many blows were struck. `is_known`: the same each time."""
    num_blows, said_s = 0, 0.0

    @settings(
        max_examples=num_examples,
        derandomize=is_known,
        database=None,
        phases=[Phase.generate],  # a pool that is hurt shows it only once
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(blows(MODEL, victims, intruder.key), min_size=10, max_size=20))
    def strike(some: list[Blow]) -> None:
        nonlocal num_blows, said_s
        if time.monotonic() - said_s > INTRODUCE_S:
            said_s = time.monotonic()
            intruder.introduce()
        for blow in some:
            intruder.strike(blow)
            num_blows += 1
        intruder.ask_status()

    strike()
    return num_blows


def check_harmless(yard: Yard, seconds: float) -> None:
    """For so long, and at least QUICK examples."""
    pids = {"broker": yard.broker.pid, "front": yard.front.pid, "worker": yard.workers[0].pid}
    status = yard.status()
    rows = {one["pid"]: one for one in (*status["fronts"], *status["workers"])}
    victims = [bytes.fromhex(rows[pids[name]]["inc"]) for name in ("front", "worker")]
    address, worker_key = BrokerAddress.of(yard.run_dir), ""
    if isinstance(yard, TcpYard):
        address = BrokerAddress.of(yard.run_dir, yard.broker_bind, yard.folder("front"))
        worker_key = read_keys(yard.folder("worker")).public
    intruder = Intruder(address, (rows[pids["worker"]]["endpoint"], worker_key), victims[0], yard.port)

    def strike() -> int:
        intruder.introduce()
        intruder.wait_for_the_front()
        for blow in certain(*victims):
            intruder.strike(blow)
        num_blows, ends_s = fuzz(intruder, victims, QUICK, is_known=True), time.monotonic() + seconds
        while time.monotonic() < ends_s:
            num_blows += fuzz(intruder, victims, 200, is_known=False)
        return num_blows

    try:
        check_unharmed(pids, yard.url, yard.run_dir, strike)
    finally:
        intruder.close()
    wait_until(lambda: is_counted(yard.status(), victims[1]), "what was refused to be counted", 10)
    metrics = httpx.get(f"{yard.url}/metrics").text
    assert 'tokenyard_refused_messages_total{by="front",reason="malformed"}' in metrics


def is_counted(told: dict[str, Any], worker: bytes) -> bool:
    """Whether broker and worker tell what they have refused; the worker with its next beat."""
    (load,) = [one["load"] for one in told["workers"] if one["inc"] == worker.hex()]
    at_broker, at_worker = {"malformed", "identity", "version", "role"}, {"malformed", "identity", "role"}
    return at_broker <= told["broker"]["refused"].keys() and {f"refused_{one}" for one in at_worker} <= load.keys()


def test_topics_that_are_made_up_fill_no_workers_memory(server: Yard) -> None:
    """libzmq keeps each for as long as its sender stays; 40,000 of these took 130 MiB."""
    (row,) = server.status()["workers"]
    worker = psutil.Process(row["pid"])
    client = Client(server.url)
    client.start()
    before, ends_s = worker.memory_full_info().uss, time.monotonic() + START_S
    with (
        zmq.Context() as context,
        dial(context, zmq.XSUB, row["endpoint"]) as socket,
        socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor,
    ):
        num_topics = num_hung_up = 0
        while num_hung_up < 3:
            assert time.monotonic() < ends_s, f"{num_topics} topics were taken"
            for _ in range(500):
                socket.send(b"\x01" + os.urandom(60))
            num_topics += 500
            if monitor.poll(5):
                num_hung_up += bool(monitor.recv_multipart())
    client.end()
    assert not client.wrong, client.wrong[:9]
    assert worker.memory_full_info().uss - before < 60 << 20


def test_nobody_is_harmed_by_what_comes_in(server: Yard) -> None:
    """Last of those that use this pool: what an intruder claims to serve stays known for a while."""
    check_harmless(server, 0)


@pytest.mark.faults
@pytest.mark.parametrize("pool", [Yard, TcpYard], ids=["ipc", "tcp"])
def test_nor_in_a_campaign(pool: type[Yard]) -> None:
    yard = pool()
    try:
        check_harmless(yard, CAMPAIGN_S)
    finally:
        yard.close()
