"""The table of docs/mcp.md: each of its cells for the SDK that is installed, on a real server.

`scripts/test.sh --mcp 2` runs those of the other major.
"""

import asyncio
import gc
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from mcp_servers import WebServer, stdio_config

from tokenyard.http.mcp import hub as hub_module
from tokenyard.http.mcp.config import ServerConfig
from tokenyard.http.mcp.hub import Hub
from tokenyard.http.mcp.results import as_text
from tokenyard.http.mcp.sdk import MAJOR, McpFailure

pytestmark = [
    pytest.mark.slow,
    # the SDK's clients leave a stream of their own unclosed (mcp 1.30)
    pytest.mark.filterwarnings("ignore:Exception ignored in. <function MemoryObject"),
]

DOC = Path(__file__).parents[3] / "docs" / "mcp.md"
TRANSPORTS = ["stdio", "http", "sse"]
PINGS_S = {"hang": 1.0, "crash": 1.0}
"""So that a server that hangs, or is gone without a word, is found soon. (One that sends 9 MB takes over a second.)"""

Case = Callable[[Hub], Awaitable[None]]


async def call(hub: Hub, tool: str, **arguments: object) -> str:
    return as_text(await hub.call("trial", tool, arguments), 32_000)


async def text(hub: Hub) -> None:
    assert await call(hub, "get_weather", city="Rome") == "It is sunny in Rome, 21 degrees."


async def structured(hub: Hub) -> None:
    result = await hub.call("trial", "structured", {"name": "abc"})
    assert result.structured == {"name": "abc", "length": 3}


async def image(hub: Hub) -> None:
    assert await call(hub, "image") == "[image, image/png, 9 bytes: this model cannot take it in]"


async def error(hub: Hub) -> None:
    result = await hub.call("trial", "fail", {})
    assert result.is_error
    assert "this tool always fails" in as_text(result, 100)


async def slow(hub: Hub) -> None:
    with pytest.raises(McpFailure, match="did not answer within 2 s"):
        await hub.call("trial", "slow", {"seconds": 30})
    assert await call(hub, "add", a=1, b=1) == "2"


async def huge(hub: Hub) -> None:
    if MAJOR == 2 and hub.configs()[0].transport == "sse":  # where its client has a limit and no option for it
        with pytest.raises(McpFailure):
            await call(hub, "huge", megabytes=9)
        assert await call(hub, "add", a=1, b=1) == "2"
        return
    assert (await call(hub, "huge", megabytes=9)).endswith(f"({(9 << 20) - 32_000:,} more characters were cut)")


async def crash(hub: Hub) -> None:
    with pytest.raises(McpFailure):
        await hub.call("trial", "crash", {})


async def hang(hub: Hub) -> None:
    """The pings find it, before the call's own time is over."""
    with pytest.raises(McpFailure, match=r"ended in the middle of it|Connection closed"):
        await hub.call("trial", "hang", {})
    assert hub.states()[0].state != "ready"


CASES: dict[str, Case] = {
    one.__name__: one for one in (text, structured, image, error, slow, huge, crash, hang)
}  # fmt: skip
TIMES_S = {"slow": 2.0}
"""Of one call."""


@pytest.fixture(params=TRANSPORTS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerConfig]:
    """A living server of one transport; a test's id names its cell."""
    case = request.node.callspec.params["case"]
    given = {"timeout_s": TIMES_S.get(case, 30.0)}
    if request.param == "stdio":
        yield stdio_config(**given)
        return
    server = WebServer(request.param, tmp_path)
    yield server.config(**given)
    server.kill()


@pytest.mark.parametrize("case", CASES)
def test_a_cell(case: str, config: ServerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    if config.transport != "stdio":  # whose end takes some seconds
        monkeypatch.setattr(hub_module, "CLOSE_S", 1.0)

    async def work() -> None:
        hub = Hub([config], ping_s=PINGS_S.get(case, 30.0))
        hub.start()
        try:
            async with asyncio.timeout(60):
                assert await hub.tools(["trial"])
                await CASES[case](hub)
        finally:
            await hub.close()

    asyncio.run(work())
    gc.collect()  # what the SDK left unclosed warns here, where that is allowed for


def test_the_table_is_what_is_tested() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", DOC.read_text(), re.MULTILINE)
    wanted = {name: ["yes"] * 6 for name in CASES}
    wanted["huge"][5] = "to 1 MiB"
    cells = {name: row.split(" | ") for name, row in rows}
    assert {name: row for name, row in cells.items() if len(row) == 6} == wanted
