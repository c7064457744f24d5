"""GET /v1/mcp/servers and /v1/mcp/tools, and the hub's life: it starts with the front, and reads its file again on
SIGHUP.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from tokenyard.broker.errors import SetupError
from tokenyard.http.mcp.config import read_servers
from tokenyard.http.mcp.hub import Hub
from tokenyard.http.mcp.names import tool_name
from tokenyard.http.mcp.sdk import McpFailure
from tokenyard.http.service import Service

log = logging.getLogger(__name__)


def add_routes(api: FastAPI, service: Service) -> None:
    """The routes, and what starts and ends the servers."""
    hub, path = service.hub, service.options.mcp

    async def start() -> None:
        hub.start()
        if path is not None:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, lambda: keep(loop.create_task(_reload(service, path))))

    reloads: set[asyncio.Task[None]] = set()

    def keep(task: "asyncio.Task[None]") -> None:
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    service.on_start(start)
    service.on_close(hub.close)

    @api.get("/v1/mcp/servers")
    async def servers() -> dict[str, Any]:
        return {"object": "list", "data": [asdict(state) for state in hub.states()]}

    @api.get("/v1/mcp/tools")
    async def tools() -> dict[str, Any]:
        data = [
            {
                "name": tool_name(owned.server.label, owned.tool.name),
                "server": owned.server.label,
                "tool": owned.tool.name,
                "description": owned.tool.description,
                "parameters": owned.tool.parameters,
                "requires_approval": owned.server.must_ask(owned.tool.name),
            }
            for owned in await hub.tools([config.label for config in hub.configs()])
        ]
        return {"object": "list", "data": data}

    @api.get("/v1/mcp/resources")
    async def resources() -> dict[str, Any]:
        return {"object": "list", "data": await _all(hub, hub.resources)}

    @api.get("/v1/mcp/prompts")
    async def prompts() -> dict[str, Any]:
        return {"object": "list", "data": await _all(hub, hub.prompts)}


async def _all(hub: Hub, ask: Callable[[str], Awaitable[list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """What all servers say; one that is away has nothing to."""

    async def of(label: str) -> list[dict[str, Any]]:
        try:
            found = await ask(label)
        except McpFailure:
            return []
        return [{"server": label, **one} for one in found]

    lists = await asyncio.gather(*(of(config.label) for config in hub.configs()))
    return [one for some in lists for one in some]


async def _reload(service: Service, path: Path) -> None:
    """Read the file again; one that is wrong changes nothing."""
    try:
        configs = read_servers(path)
    except SetupError as error:
        log.error("the mcp servers stay as they are: %s", error)
        return
    await service.hub.reload(configs)
    log.info("%s was read again: %d mcp servers", path, len(configs))
