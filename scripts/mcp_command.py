"""`tokenyard mcp`: look at MCP servers and their tools, call one, check a file, have a running pool read it again."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from tokenyard.broker.errors import SetupError
from tokenyard.http.mcp.config import ServerConfig, read_servers
from tokenyard.http.mcp.hub import Hub
from tokenyard.http.mcp.names import tool_name
from tokenyard.http.mcp.results import as_text
from tokenyard.http.mcp.sdk import McpFailure
from tokenyard.scripts.control import pool_status
from tokenyard.scripts.pool_dir import find_broker

LINE_CHARS = 70
"""Of a tool's description in a table."""


def _with_hub(path: Path, work: Callable[[Hub], Awaitable[int]]) -> int:
    """Connect to a file's servers for as long as `work` takes."""

    async def run() -> int:
        hub = Hub(read_servers(path))
        hub.start()
        try:
            return await work(hub)
        finally:
            await hub.close()

    return asyncio.run(run())


def list_tools(path: Path) -> int:
    """Print every server's state and tools."""

    async def work(hub: Hub) -> int:
        table = Table("TOOL", "SERVER", "DESCRIPTION", box=None, pad_edge=False)
        for owned in await hub.tools([config.label for config in hub.configs()]):
            line = owned.tool.description.strip().split("\n")[0][:LINE_CHARS]
            table.add_row(tool_name(owned.server.label, owned.tool.name), owned.server.label, line)
        Console(soft_wrap=True).print(table)
        broken = [state for state in hub.states() if state.state not in ("ready", "disabled")]
        for state in broken:
            typer.echo(f"{state.label}: {state.words or state.state}", err=True)
        return 1 if broken else 0

    return _with_hub(path, work)


def call_tool(path: Path, label: str, tool: str, arguments: str) -> int:
    """Print what a call gives."""
    try:
        value = json.loads(arguments)
    except ValueError as error:
        raise SetupError(f"the arguments are not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise SetupError("the arguments must be a JSON object")

    async def work(hub: Hub) -> int:
        config = next((one for one in hub.configs() if one.label == label), None)
        if config is None:
            raise SetupError(f"there is no server {label!r} in {path}")
        try:
            result = await hub.call(label, tool, value)
        except McpFailure as failure:
            typer.echo(failure.words, err=True)
            return 1
        typer.echo(as_text(result, config.max_result_chars))
        return 1 if result.is_error else 0

    return _with_hub(path, work)


def check(path: Path) -> int:
    """Read the file and say what it holds; nothing is started."""
    servers = read_servers(path)
    for server in servers:
        typer.echo(f"{server.label}: {_described(server)}")
    typer.echo(f"{path}: {len(servers)} servers, no mistakes")
    return 0


def _described(server: ServerConfig) -> str:
    if not server.enabled:
        return "disabled"
    where = " ".join((server.command, *server.args)) if server.transport == "stdio" else server.url
    return f"{server.transport}, {server.redacted(where)}"


def reload(run_dir: Path | None) -> int:
    """Have the fronts of a running pool that are on this box read their mcp.json again."""
    there = pool_status(find_broker(run_dir))["fronts"]
    fronts = [front["pid"] for front in there if _reads_again(front["pid"])]
    if not fronts:
        raise SetupError("no front of this pool that has an mcp.json runs on this box, as the user that you are")
    for pid in fronts:
        os.kill(pid, signal.SIGHUP)
    typer.echo(f"told {len(fronts)} front{'s' * (len(fronts) != 1)}; its log says what came of it")
    return 0


def _reads_again(pid: int) -> bool:
    """Whether this is a front that waits for SIGHUP: any other process would die, and a pid may be of another box."""
    try:
        process = Path("/proc", str(pid))
        is_front = process.stat().st_uid == os.getuid() and b"front" in (process / "cmdline").read_bytes().split(b"\0")
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return False
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return is_front and bool(int(caught, 16) >> (signal.SIGHUP - 1) & 1)
