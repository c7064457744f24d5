"""`tokenyard serve` and its supervisor on real processes: what dies comes back, and nothing outlives it."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import zmq
from served import GONE_S, Served
from sse import Reply, stream
from yard import wait_until

from tokenyard.broker.config import RunDir
from tokenyard.broker.logs import JSON_VARIABLE
from tokenyard.scripts.agency import StartWorker
from tokenyard.scripts.broker_peer import BrokerPeer
from tokenyard.scripts.plan import Wishes, make_plan
from tokenyard.scripts.pool_dir import find_broker, pool_dir
from tokenyard.scripts.screen import Screen
from tokenyard.scripts.supervisor import Supervisor, listen
from tokenyard.scripts.watch import LAST_DELAY_S

NUM_WORKERS = 2


@pytest.fixture(scope="module")
def pool() -> Iterator[Served]:
    """One pool for all tests that leave it whole."""
    served = Served("--workers", str(NUM_WORKERS))
    try:
        yield served.wait_ready()
    finally:
        served.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Served]]:
    """Starts a pool of the test's own."""
    started: list[Served] = []

    def start_one(*arguments: str) -> Served:
        started.append(Served(*arguments))
        return started[-1]

    yield start_one
    for served in started:
        served.close()


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `tokenyard ARGUMENTS` to its end."""
    line = [sys.executable, "-m", "tokenyard.scripts.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def wait_whole(pool: Served, *but: int) -> None:
    """Until all workers are ready, none of them one of these pids."""
    wait_until(lambda: len(pool.ready_pids() - set(but)) == NUM_WORKERS, "all workers to be ready again")


async def say_hello(url: str) -> str:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        body = {"model": "tokenyard-demo", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0}
        return (await stream(client, body)).text


@pytest.mark.slow
class TestPool:
    """Of one pool, in turn."""

    def test_the_banner_tells_where_and_what(self, pool: Served) -> None:
        log = pool.log()
        assert f"Tokenyard 0.1.0 serves {pool.url}/v1" in log
        assert "models   tokenyard-demo on cpu ×2" in log
        assert f"curl {pool.url}/v1/chat/completions" in log
        assert asyncio.run(say_hello(pool.url)).startswith("Hello")

    def test_status_shows_the_workers(self, pool: Served) -> None:
        shown = command("status", "--run-dir", str(pool.run_dir))
        assert shown.returncode == 0, shown.stderr
        assert "2 workers, 1 front, 1 agent" in shown.stdout
        for pid in pool.ready_pids():
            assert str(pid) in shown.stdout

    def test_status_is_watched_through_a_pipe(self, pool: Served) -> None:
        line = [sys.executable, "-m", "tokenyard.scripts.cli", "status", "--watch", "--run-dir", str(pool.run_dir)]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            titles = (one for one in watching.stdout if one.startswith("WORKER"))
            assert next(titles) == next(titles)
            watching.send_signal(signal.SIGINT)
            assert watching.wait(10) == 0

    def test_a_killed_worker_comes_back(self, pool: Served) -> None:
        victim = min(pool.ready_pids())
        os.kill(victim, signal.SIGKILL)
        wait_whole(pool, victim)
        pool.wait_log(rf"worker \d \(pid {victim}\): SIGKILL from outside")

    def test_a_killed_broker_comes_back_and_finds_the_pool(self, pool: Served) -> None:
        workers = pool.ready_pids()
        (broker,) = pool.children("broker")
        broker.kill()
        wait_until(lambda: not broker.is_running(), "the broker's end")
        wait_until(lambda: len(pool.children("broker")) == 1, "another broker")
        wait_until(lambda: pool.ready_pids() == workers, "the same workers to be ready")
        wait_until(lambda: len(pool.status()["agents"]) == 1, "the agent to be known again")

    def test_no_connection_is_refused_while_a_front_restarts(self, pool: Served) -> None:
        (front,) = pool.children("front")
        front.kill()
        assert httpx.get(f"{pool.url}/health", timeout=30).status_code == 200

    def test_a_front_told_to_end_leaves_new_connections_to_the_next(self, pool: Served) -> None:
        """Only the pool's end is answered with 503."""
        (front,) = pool.children("front")
        told = threading.Event()

        def tell() -> None:
            front.terminate()
            told.set()

        def ask_anew() -> httpx.Response:
            told.wait()
            time.sleep(0.2)  # a signal is seen within a tenth of a second
            return httpx.get(f"{pool.url}/v1/models", timeout=60)

        async def run() -> tuple[Reply, httpx.Response]:
            return await asyncio.gather(count_while(pool.url, tell), asyncio.to_thread(ask_anew))

        reply, answer = asyncio.run(run())
        assert reply.finish_reason == "length"
        assert answer.status_code == 200
        assert pool.children("front")[0].pid != front.pid

    def test_kill_ends_a_worker_and_a_fresh_one_comes(self, pool: Served) -> None:
        row = pool.status()["workers"][0]
        done = command("kill", row["inc"][:8], "--run-dir", str(pool.run_dir))
        assert done.returncode == 0, done.stderr
        wait_whole(pool, row["pid"])

    def test_kill_of_an_unknown_worker_names_the_known(self, pool: Served) -> None:
        done = command("kill", "zz", "--run-dir", str(pool.run_dir))
        assert done.returncode == 2
        for row in pool.status()["workers"]:
            assert row["inc"][:8] in done.stderr

    def test_drain_ends_a_worker_for_good(self, pool: Served) -> None:
        row = pool.status()["workers"][0]
        done = command("drain", str(row["pid"]), "--remove", "--run-dir", str(pool.run_dir))
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("it has gone\n")
        assert row["pid"] not in {one.pid for one in pool.children("worker")}
        assert len(pool.status()["workers"]) == NUM_WORKERS - 1

    def test_a_second_serve_in_the_same_place_is_refused(self, pool: Served) -> None:
        again = command("serve", "--port", "0", "--run-dir", str(pool.run_dir))
        assert again.returncode == 2
        assert "another supervisor is running there" in again.stderr

    def test_sigterm_lets_a_stream_finish_and_says_so_to_others(self, pool: Served) -> None:
        """The last of this class: the pool is gone after it."""
        pool.process_tree()

        def is_draining() -> bool:
            answer = httpx.get(f"{pool.url}/ready")
            return answer.status_code == 503 and answer.json()["status"] == "draining"

        async def run() -> Reply:
            streaming = asyncio.create_task(count_while(pool.url, pool.process.terminate))
            await asyncio.to_thread(wait_until, is_draining, "the pool to say that it drains")
            return await streaming

        reply = asyncio.run(run())
        assert reply.finish_reason == "length"
        assert pool.process.wait(30) == 0, pool.log()
        pool.wait_gone()
        with pytest.raises(httpx.ConnectError):
            httpx.get(pool.url)


async def count_while(url: str, disturb: Callable[[], None]) -> Reply:
    """A long stream; `disturb` is called at its third event."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        body = {
            "model": "tokenyard-demo",
            "messages": [{"role": "user", "content": "Count from 1 to 60."}],
            "max_tokens": 300,
            "ignore_eos": True,
        }
        return await stream(client, body, lambda count: disturb() if count == 3 else None)


def wait_started(served: Served) -> None:
    """Until all its processes are there, ready or not."""
    wait_until(lambda: all(served.children(role) for role in ("broker", "front", "worker")), "the processes")
    served.process_tree()


@pytest.mark.slow
def test_nothing_outlives_a_killed_supervisor(start: Callable[..., Served]) -> None:
    served = start()
    wait_started(served)
    served.process.kill()
    served.wait_gone()


@pytest.mark.slow
def test_nothing_outlives_a_supervisor_killed_while_a_stream_runs(start: Callable[..., Served]) -> None:
    served = start().wait_ready()
    served.process_tree()
    with pytest.raises(httpx.TransportError):
        asyncio.run(count_while(served.url, served.process.kill))
    served.wait_gone()


@pytest.mark.slow
def test_nothing_outlives_one_killed_at_its_very_start(start: Callable[..., Served]) -> None:
    served = start()
    wait_until(served.process_tree, "a first child")
    served.process.kill()
    served.wait_gone()


@pytest.mark.slow
def test_a_second_sigterm_ends_a_drain_at_once(start: Callable[..., Served]) -> None:
    served = start()
    wait_started(served)
    fronts = served.children("front")
    for front in fronts:
        front.suspend()  # it never finishes; until it has stopped, a SIGTERM would overtake the stop
    wait_until(lambda: all(front.status() == psutil.STATUS_STOPPED for front in fronts), "the front to stop")
    served.process.terminate()
    served.wait_log("draining")
    served.process.terminate()
    assert served.process.wait(GONE_S) == 1
    assert not served.survivors()


@pytest.mark.slow
def test_ctrl_c_ends_all_at_once(start: Callable[..., Served]) -> None:
    served = start()
    wait_started(served)
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(GONE_S) == 128 + signal.SIGINT
    assert not served.survivors()


@pytest.mark.slow
def test_a_model_that_cannot_load_is_told(start: Callable[..., Served], tmp_path: Path) -> None:
    served = start(str(tmp_path / "nothing"))
    assert served.process.wait(60) == 2
    assert f"model {tmp_path / 'nothing'}: there is no such directory or GGUF file" in served.log()
    assert "worker 0 cannot start as it was told to" in served.log()
    assert not served.survivors()


def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("serve", "--port", str(port))
    assert done.returncode == 2
    assert done.stderr == (
        f"tokenyard: cannot listen on 127.0.0.1:{port}: Address already in use; choose another --host or --port\n"
    )


def test_what_cannot_be_started_now_is_started_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    plan = make_plan(Wishes(device="cpu"), None)
    with zmq.Context() as context, listen("127.0.0.1", 0) as listener:
        supervisor = Supervisor(plan, RunDir(tmp_path).create(), listener)
        supervisor._work = BrokerPeer(context, plan.reach.address(tmp_path), is_agent=True)
        with monkeypatch.context() as no_room:
            no_room.setattr("tokenyard.scripts.supervisor.start_child", refuse)
            supervisor._add_posts(0)
            supervisor._do(supervisor._watch.tick(0))
            supervisor._spawn(StartWorker(1, "demo", "cpu", True), 0)
        supervisor._watch.check()
        assert set(supervisor._watch.posts) == {"worker 0", "broker", "front 0"}, "what was asked for is answered"
        assert all("it cannot be started: Resource temp" in line for line in supervisor._watch.troubles())
        try:
            supervisor._do(supervisor._watch.tick(time.monotonic() + LAST_DELAY_S))
            assert set(supervisor._children) == {"worker 0", "broker", "front 0"}
        finally:  # not by _end_all, which ends all that is below this process: other tests' pools, too
            for child in supervisor._children.values():
                child.reap()
            supervisor._work.close()


def test_a_pool_that_drains_as_it_becomes_ready_is_not_announced(tmp_path: Path) -> None:
    supervisor = Supervisor(make_plan(Wishes(), None), RunDir(tmp_path).create(), listen("127.0.0.1", 0))
    supervisor._screen = Screen()
    supervisor._take_signals(bytes([signal.SIGTERM]), 0)
    supervisor._take_status({"workers": [], "fronts": []}, 0)
    assert not supervisor._is_announced


def test_where_the_log_is_json_so_is_all_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(JSON_VARIABLE, "1")
    with caplog.at_level("INFO"):
        screen = Screen()
        screen.progress({"worker 0": "starting"})
        screen.banner("Tokenyard serves", {"run dir": "/run/x"}, "curl /")
        screen.close()
    assert caplog.messages == ["worker 0: starting", "Tokenyard serves"]
    assert caplog.records[-1].__dict__["fields"] == {"run_dir": "/run/x", "example": "curl /"}
    assert capfd.readouterr().err == ""


@pytest.fixture
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty $XDG_RUNTIME_DIR with a path short enough for unix sockets, which tmp_path's is not."""
    with tempfile.TemporaryDirectory(prefix="xdg-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.mark.slow
def test_a_private_run_directory_is_removed_at_the_end(runtime_dir: Path) -> None:
    line = [sys.executable, "-m", "tokenyard.scripts.cli", "serve", "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: list(runtime_dir.glob("tokenyard-run-*/broker.lock")), "the run directory")
        assert Path((runtime_dir / "tokenyard" / "last").read_text().strip()).parent == runtime_dir
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)
    assert list(runtime_dir.glob("tokenyard-run-*")) == []


def test_what_a_killed_serve_left_is_swept(runtime_dir: Path) -> None:
    left = runtime_dir / "tokenyard-run-left"
    left.mkdir(mode=0o700)
    (runtime_dir / "mine").mkdir()
    (runtime_dir / "tokenyard-run-link").symlink_to(runtime_dir / "mine")
    with pool_dir(None) as first:
        assert not left.exists()
        assert not list((runtime_dir / "mine").iterdir()), "what a link names is none of ours"
        held = len(os.listdir("/proc/self/fd"))
        with pool_dir(None) as second:
            assert len(os.listdir("/proc/self/fd")) == held + 1, "its own lock; the other's was looked at and left"
            assert first.path.exists()
            assert second.path != first.path
            assert find_broker(None).front == second.front_endpoint
        assert find_broker(None).front == first.front_endpoint, "the one that still lives"
