"""The hub on real servers: three transports, all kinds of results, and all that a server can do wrong."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp_servers import WebServer, stdio_config

from tokenyard.http.mcp.config import ServerConfig
from tokenyard.http.mcp.hub import Hub
from tokenyard.http.mcp.results import as_text
from tokenyard.http.mcp.sdk import McpFailure

pytestmark = [
    pytest.mark.slow,
    # the SDK's SSE client leaves a stream of its own unclosed (mcp 1.30)
    pytest.mark.filterwarnings("ignore:Exception ignored in. <function MemoryObject"),
]

TRANSPORTS = ["stdio", "http", "sse"]
Make = Callable[..., ServerConfig]


@pytest.fixture(params=TRANSPORTS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes the config of a living server of one transport."""
    if request.param == "stdio":
        yield stdio_config
        return
    server = WebServer(request.param, tmp_path)
    yield server.config
    server.kill()


@asynccontextmanager
async def opened(*configs: ServerConfig) -> AsyncIterator[Hub]:
    hub = Hub(configs)
    hub.start()
    try:
        yield hub
    finally:
        await hub.close()


def run(work: Callable[[Hub], Coroutine[Any, Any, None]], *configs: ServerConfig) -> None:
    async def whole() -> None:
        async with opened(*configs) as hub:
            await asyncio.wait_for(work(hub), 60)

    asyncio.run(whole())
    gc.collect()  # what the SDK left unclosed warns here, where that is allowed for


def server_pids() -> set[int]:
    """The wrappers of stdio servers below this process, and all below those; other tests' pools are not meant."""
    found: set[int] = set()
    for process in psutil.Process().children():
        if any(word.endswith("child.py") for word in process.cmdline()):
            found |= {process.pid, *(below.pid for below in process.children(recursive=True))}
    return found


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_tools_are_listed_and_called(make: Make) -> None:
    async def work(hub: Hub) -> None:
        tools = {owned.tool.name: owned.tool for owned in await hub.tools(["trial"])}
        assert tools["add"].description == "Add two numbers."
        assert tools["add"].parameters["properties"]["a"]["type"] == "integer"
        assert as_text(await hub.call("trial", "add", {"a": 2, "b": 3}), 100) == "5"
        results = await asyncio.gather(*(hub.call("trial", "add", {"a": n, "b": 1}) for n in range(20)))
        assert [as_text(one, 100) for one in results] == [str(n + 1) for n in range(20)]
        (state,) = hub.states()
        assert (state.state, state.num_calls, state.num_restarts) == ("ready", 21, 0)

    run(work, make())


def test_every_kind_of_result(make: Make) -> None:
    async def work(hub: Hub) -> None:
        structured = await hub.call("trial", "structured", {"name": "abc"})
        assert structured.structured == {"name": "abc", "length": 3}
        assert "image/png" in as_text(await hub.call("trial", "image", {}), 100)
        failed = await hub.call("trial", "fail", {})
        assert failed.is_error
        assert as_text(failed, 200).startswith("Error: ")
        assert "this tool always fails" in as_text(failed, 200)
        wrong = await hub.call("trial", "add", {"a": "x"})
        assert wrong.is_error

    run(work, make())


def test_a_slow_call_is_given_up_and_harms_no_other(make: Make) -> None:
    async def work(hub: Hub) -> None:
        slow = asyncio.create_task(hub.call("trial", "slow", {"seconds": 30}))
        reading = asyncio.create_task(hub.read_resource("trial", "memo://slow/30"))
        await until(lambda: hub.states()[0].num_calls)
        assert as_text(await hub.call("trial", "add", {"a": 1, "b": 1}), 9) == "2"
        for waiting in (slow, reading):
            with pytest.raises(McpFailure, match="within 2 s"):
                await waiting
        assert as_text(await hub.call("trial", "add", {"a": 1, "b": 1}), 9) == "2"

    run(work, make(timeout_s=2))


GREETS_ONLY = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("method") == "initialize":
        about = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}}}
        about["serverInfo"] = {"name": "mute", "version": "1"}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": about}), flush=True)
"""


def test_a_server_that_greets_and_lists_nothing_is_not_waited_for() -> None:
    async def work() -> None:
        hub = Hub([ServerConfig("mute", "stdio", command=sys.executable, args=("-c", GREETS_ONLY))], ping_s=0.5)
        hub.start()
        await until(lambda: hub.states()[0].words == "it gave no sign of life")
        await hub.close()

    asyncio.run(work())


def test_a_cancelled_call_is_let_go(make: Make) -> None:
    async def work(hub: Hub) -> None:
        slow = asyncio.create_task(hub.call("trial", "slow", {"seconds": 30}))
        await until(lambda: hub.states()[0].num_calls)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert as_text(await hub.call("trial", "add", {"a": 1, "b": 1}), 9) == "2"

    run(work, make())


def test_a_changed_list_is_read_again(make: Make) -> None:
    async def work(hub: Hub) -> None:
        await hub.call("trial", "grow", {})

        async def names() -> set[str]:
            return {owned.tool.name for owned in await hub.tools(["trial"])}

        async with asyncio.timeout(20):
            while "grown" not in await names():
                await asyncio.sleep(0.05)

    run(work, make())


def test_only_allowed_tools_are_there(make: Make) -> None:
    async def work(hub: Hub) -> None:
        assert [owned.tool.name for owned in await hub.tools(["trial"])] == ["add"]
        with pytest.raises(McpFailure, match="not allowed"):
            await hub.call("trial", "crash", {})

    run(work, make(allowed_tools=frozenset({"add"})))


def test_resources_and_prompts(make: Make) -> None:
    async def work(hub: Hub) -> None:
        await hub.tools(["trial"])
        assert [one["uri"] for one in await hub.resources("trial")] == ["memo://today"]
        assert (await hub.read_resource("trial", "memo://today"))[0]["text"] == "Buy milk."
        assert [one["name"] for one in await hub.prompts("trial")] == ["greet"]
        with pytest.raises(McpFailure):
            await hub.read_resource("trial", "memo://nowhere")

    run(work, make())


def test_a_crash_costs_one_call_and_the_server_comes_back() -> None:
    async def work(hub: Hub) -> None:
        bystander = asyncio.create_task(hub.call("other", "slow", {"seconds": 0.5}))
        await hub.tools(["trial"])
        with pytest.raises(McpFailure):
            await hub.call("trial", "crash", {})
        assert as_text(await hub.call("trial", "add", {"a": 1, "b": 1}), 9) == "2"
        assert hub.states()[0].num_restarts == 1
        assert as_text(await bystander, 9) == "done"

    run(work, stdio_config(), stdio_config("other"))


def test_a_server_killed_while_idle_is_respawned() -> None:
    async def work(hub: Hub) -> None:
        await hub.tools(["trial"])
        for process in psutil.Process().children(recursive=True):
            if "mcp_server.py" in " ".join(process.cmdline()) and "child.py" not in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
        await until(lambda: hub.states()[0].num_restarts == 1 and hub.states()[0].state == "ready")
        assert as_text(await hub.call("trial", "add", {"a": 1, "b": 1}), 9) == "2"

    run(work, stdio_config())


def test_garbage_on_stdout_is_passed_over() -> None:
    async def work(hub: Hub) -> None:
        await hub.call("trial", "garbage", {})
        assert as_text(await hub.call("trial", "add", {"a": 1, "b": 1}), 9) == "2"

    run(work, stdio_config())


def test_nothing_of_a_server_outlives_the_hub() -> None:
    pids: list[int] = []

    async def work(hub: Hub) -> None:
        pids.append(int(as_text(await hub.call("trial", "spawn", {}), 99)))
        hang = asyncio.create_task(hub.call("trial", "hang", {}))
        await until(lambda: hub.states()[0].num_calls == 2)
        hang.cancel()
        pids.extend(server_pids())

    run(work, stdio_config())
    assert len(pids) >= 3
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def test_a_server_that_cannot_start_costs_only_itself() -> None:
    async def work(hub: Hub) -> None:
        tools = await hub.tools(["broken", "trial", "refused"])
        assert {owned.server.label for owned in tools} == {"trial"}
        states = {state.label: state for state in hub.states()}
        assert states["broken"].words
        assert states["refused"].words
        with pytest.raises(McpFailure, match="broken is not there"):
            async with asyncio.timeout(40):
                await hub.call("broken", "add", {})

    run(
        work,
        ServerConfig("broken", "stdio", command="/no/such/command"),
        ServerConfig("refused", "http", url="http://127.0.0.1:9/mcp"),
        stdio_config(),
    )


def test_a_web_server_that_was_started_anew_is_found_again(tmp_path: Path) -> None:
    """Its session is gone: the first call may fail, and those after it do not."""

    async def work(hub: Hub) -> None:
        await hub.call("trial", "add", {"a": 1, "b": 1})
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(40):
            while True:
                try:
                    assert as_text(await hub.call("trial", "add", {"a": 1, "b": 1}), 9) == "2"
                    return
                except McpFailure:
                    await asyncio.sleep(0.05)

    server = WebServer("http", tmp_path)
    try:
        run(work, server.config())
    finally:
        server.kill()


def test_secrets_are_not_in_words() -> None:
    async def work(hub: Hub) -> None:
        # It has it, and does not give it away.
        assert as_text(await hub.call("trial", "environment", {"name": "TOKEN"}), 99) == "***"
        ours = await hub.call("trial", "environment", {"name": "TOKENYARD_API_KEY"})
        assert "sk-ours" not in as_text(ours, 99)

    os.environ["TOKENYARD_API_KEY"] = "sk-ours"
    try:
        run(work, stdio_config(env={"TOKEN": "s3cret-value"}, secrets=frozenset({"s3cret-value"})))
    finally:
        del os.environ["TOKENYARD_API_KEY"]

    async def fails(hub: Hub) -> None:
        await hub.tools(["trial"])
        assert "s3cret" not in hub.states()[0].words

    secret_url = "http://127.0.0.1:9/s3cret-value"
    run(fails, ServerConfig("trial", "http", url=secret_url, secrets=frozenset({"s3cret-value"})))


def test_a_reload_keeps_what_did_not_change() -> None:
    async def work(hub: Hub) -> None:
        await hub.tools(["a", "b"])
        pids = server_pids()
        await hub.reload([stdio_config("a"), stdio_config("c")])
        assert {owned.server.label for owned in await hub.tools(["a", "b", "c"])} == {"a", "c"}
        assert len(pids & server_pids()) == len(pids) // 2
        assert "taken out" in hub.words("b")

    run(work, stdio_config("a"), stdio_config("b"))
