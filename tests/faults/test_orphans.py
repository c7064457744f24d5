"""Nothing outlives a supervisor or a front that is killed: MCP servers and what they started included."""

import json
import os
import signal
import sys
from collections.abc import Iterator

import httpx
import psutil
import pytest
from mcp_servers import SCRIPT
from served import GONE_S, Served
from yard import wait_until

pytestmark = pytest.mark.slow

CHILD = "import time; time.sleep(3600)"
SERVER = f"""
import os, runpy, subprocess, sys
subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                 start_new_session=True)
sys.argv = [{SCRIPT!r}, "stdio"]
runpy.run_path({SCRIPT!r}, run_name="__main__")
"""
"""An MCP server with two children, one of which left its session."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("mcp") / "mcp.json"
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    server = {"command": sys.executable, "args": ["-c", SERVER], "env": env}
    path.write_text(json.dumps({"mcpServers": {"trial": server}}))
    served = Served("--mcp", str(path))
    try:
        served.wait_ready()
        yield served
    finally:
        served.close()


def mcp_family(pool: Served) -> list[psutil.Process]:
    """Our wrapper, the server, and the server's two children, once the server serves."""
    front_pids = {front.pid for front in pool.children("front")}

    def is_ready() -> bool:
        try:
            servers = httpx.get(f"{pool.url}/v1/mcp/servers", timeout=5).json()["data"]
        except httpx.TransportError:
            return False
        return all(server["state"] == "ready" for server in servers)

    wait_until(is_ready, "the MCP server")
    pool.process_tree()
    (front,) = [psutil.Process(pid) for pid in front_pids]
    family = front.children(recursive=True)
    assert len(family) == 4, family
    return family


def wait_gone(processes: list[psutil.Process]) -> None:
    def living() -> list[psutil.Process]:
        return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    wait_until(lambda: not living(), "all of them to be gone", GONE_S)


def test_a_killed_front_leaves_no_orphan(pool: Served) -> None:
    (front,) = pool.children("front")
    family = mcp_family(pool)
    front.kill()
    wait_gone([front, *family])
    wait_until(lambda: len(pool.children("front")) == 1, "the next front")
    assert httpx.get(f"{pool.url}/health", timeout=30).status_code == 200


def test_a_killed_supervisor_leaves_no_orphan(pool: Served) -> None:
    """The last one: the pool is gone after it."""
    family = mcp_family(pool)
    os.kill(pool.process.pid, signal.SIGKILL)
    wait_gone(family)
    pool.wait_gone()
