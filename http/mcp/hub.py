"""The MCP servers of this front: one supervisor task each, a fresh task for each connection, and calls by tool.

A server that is broken, slow or gone costs its own tools only. Handlers await futures here and touch no connection
themselves. Knows no HTTP of ours and no models.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from tokenyard.http.mcp.config import ServerConfig
from tokenyard.http.mcp.sdk import FAILURES, Connection, Listeners, McpFailure, Result, Tool, connect, describe

log = logging.getLogger(__name__)

CONNECT_S = 60.0
"""`npx` and `uvx` fetch a server's package at its first start."""
WAIT_READY_S = 20.0
"""A request waits so long for a server that is just starting; then it goes without its tools."""
BACKOFF_S = (0.2, 1.0, 5.0, 15.0, 60.0)
"""Before a lost or failed connection is tried again, by failures in a row; a connection that held STEADY_S starts
over.
"""
STEADY_S = 30.0
SOON_S = 1.0
"""A request waits for a server that comes back this soon; one that fails again and again it does without."""
RELIST_S = 0.2
"""A burst of list_changed notifications costs one listing."""
PING_S = 30.0
"""A connection is asked for a sign of life so often, and has as long to give one."""
CLOSE_S = 8.0
"""A connection has so long to close by itself. A stdio server's takes at most 5: the SDK waits 2 s for its end, then
ends it, which child.py does within 1 s; mcp 2's HTTP client would wait minutes for a server that hangs.
"""
MAX_PARALLEL = 8
"""Calls of one server at once (design: MCP, limits)."""

T = TypeVar("T")


class OwnedTool(NamedTuple):
    """A tool and the server that has it."""

    server: ServerConfig
    tool: Tool


@dataclass(slots=True)
class ServerState:
    """For people: how a server does."""

    label: str
    transport: str
    state: str
    """disabled, idle (connects when wanted), connecting, ready, waiting (for its next try)."""
    words: str
    """What went wrong last."""
    num_tools: int
    num_calls: int
    num_restarts: int
    default: bool


class _Server:
    """One server's supervisor."""

    def __init__(self, config: ServerConfig, ping_s: float) -> None:
        self.config = config
        self._ping_s = ping_s
        self.tools: list[Tool] = []
        """Of the last listing, those that the config allows; kept while it reconnects."""
        self.state = "idle" if config.enabled else "disabled"
        self.words = ""
        self.num_calls = 0
        self.num_restarts = 0
        self._connection: Connection | None = None
        self._link: asyncio.Task[None] | None = None
        """The life of its connection."""
        self._closing = asyncio.Event()
        """Set once that is being closed: to cancel this too early would leave a process behind."""
        self._soon = True
        """Whether a server that waits is tried again within SOON_S."""
        self._news = asyncio.Event()
        """Set, and made anew, whenever the state changes."""
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._slots = asyncio.Semaphore(MAX_PARALLEL)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self.config.enabled:
            self._task = asyncio.create_task(self._supervise(), name=f"mcp {self.config.label}")
            if self.config.eager:
                self._wanted.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._link is not None:
            await self._end(self._link)

    @property
    def _is_coming(self) -> bool:
        """Whether it may soon be ready."""
        if self._connection is not None:
            return self._connection.lost.is_set()
        return self.state in ("idle", "connecting") or (self.state == "waiting" and self._soon)

    async def settle(self) -> None:
        """Return once it is ready, or is found to be broken, or patience is over."""
        self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_READY_S):
                while self._is_coming:
                    await self._news.wait()

    async def run(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """Do something with its connection. Raises McpFailure; cancelled, it stops waiting for the server."""
        await self.settle()
        connection = self._connection
        if connection is None:
            raise McpFailure(f"the server {self.config.label} is not there: {self.words or self.state}")
        async with self._slots:
            self.num_calls += 1
            # A task of its own: what the SDK's cancel scopes do stays in there.
            working = asyncio.create_task(work(connection), name=f"mcp {self.config.label} call")
            losing = asyncio.create_task(connection.lost.wait())
            try:
                patience_s = self.config.timeout_s
                await asyncio.wait((working, losing), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if not working.done() and not losing.done():
                    raise McpFailure(f"the server did not answer within {patience_s:g} s")
                if not working.done():
                    raise McpFailure(f"the server {self.config.label} ended in the middle of it", lost=True)
                return working.result()
            except McpFailure as failure:
                if failure.lost:
                    connection.lost.set()
                raise McpFailure(self.config.redacted(failure.words), failure.lost) from None
            finally:
                working.cancel()
                losing.cancel()

    # The supervisor's task.

    def _is(self, state: str) -> None:
        self.state = state
        self._news.set()
        self._news = asyncio.Event()

    async def _supervise(self) -> None:
        failures = 0
        while True:
            await self._wanted.wait()
            began = time.monotonic()
            self._is("connecting")
            self._closing.clear()
            self._link = asyncio.create_task(self._connect(), name=f"mcp {self.config.label} connection")
            closing = asyncio.create_task(self._closing.wait())
            try:
                await asyncio.wait([self._link, closing], return_when=asyncio.FIRST_COMPLETED)
            finally:
                closing.cancel()
            await self._end(self._link)
            self.words = self.config.redacted(_end_of(self._link))
            held = time.monotonic() - began
            failures = 1 if held > STEADY_S else failures + 1
            self.num_restarts += 1
            delay = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
            self._soon = delay <= SOON_S
            self._is("waiting")
            log.warning("mcp server %s: %s; again in %g s", self.config.label, self.words, delay)
            await asyncio.sleep(delay)

    async def _end(self, link: "asyncio.Task[None]") -> None:
        """See a connection to its end; one whose far end hangs is not waited for politely."""
        if not self._closing.is_set():
            link.cancel()
        patience_s = CLOSE_S
        while not link.done():
            await asyncio.wait([link], timeout=patience_s)
            link.cancel()
            patience_s = SOON_S

    async def _connect(self) -> None:
        """One connection's life; ends with the reason as McpFailure."""
        label = self.config.label

        def logged(line: str) -> None:
            log.debug("mcp server %s says: %s", label, self.config.redacted(line))

        listeners = Listeners(self._changed.set, logged, self._closing.set)
        async with connect(self.config, listeners, CONNECT_S) as connection:
            await self._list(connection)
            self._connection = connection
            self.words = ""
            self._is("ready")
            log.info("mcp server %s is ready: %d tools", label, len(self.tools))
            try:
                await self._attend(connection)
            finally:
                self._connection = None
                self._is("connecting")  # while it is being closed, which may take seconds
            raise McpFailure("the connection was lost", lost=True)

    async def _attend(self, connection: Connection) -> None:
        """List again what changes, and see that it lives, until it is lost."""
        lost = asyncio.create_task(connection.lost.wait())
        try:
            while not lost.done():
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait((lost, changed), timeout=self._ping_s, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if lost.done():
                    return
                if self._changed.is_set():
                    await asyncio.sleep(RELIST_S)
                    self._changed.clear()
                    await self._list(connection)
                else:
                    async with asyncio.timeout(self._ping_s):
                        await connection.ping()
        finally:
            lost.cancel()

    async def _list(self, connection: Connection) -> None:
        async with asyncio.timeout(self._ping_s):
            self.tools = [tool for tool in await connection.list_tools() if self.config.allows(tool.name)]


def _end_of(task: "asyncio.Task[None]") -> str:
    """Why a connection ended."""
    error = None if task.cancelled() else task.exception()
    if error is None:
        return "the connection was closed"
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return "it gave no sign of life"
    if not isinstance(error, (McpFailure, *FAILURES)):
        log.error("an mcp connection failed", exc_info=error)
    return describe(error)


def _redacted(config: ServerConfig, value: Any) -> Any:
    """A JSON value with no secret in any of its texts: a server may give away what it was trusted with."""
    if not config.secrets:
        return value
    if isinstance(value, str):
        return config.redacted(value)
    if isinstance(value, list):
        return [_redacted(config, one) for one in value]
    if isinstance(value, dict):
        return {key: _redacted(config, one) for key, one in value.items()}
    return value


class Hub:
    """All servers of one configuration."""

    def __init__(self, configs: Sequence[ServerConfig], *, ping_s: float = PING_S) -> None:
        self._ping_s = ping_s
        self._servers = {config.label: _Server(config, ping_s) for config in configs}

    def start(self) -> None:
        """Begin to connect; returns at once."""
        for server in self._servers.values():
            server.start()

    async def close(self) -> None:
        """End all connections and every process started for them."""
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    async def reload(self, configs: Sequence[ServerConfig]) -> None:
        """Take a new configuration: servers that did not change keep their connections."""
        kept = {one.label: self._servers[one.label] for one in configs if self._same(one)}
        ended = [server for label, server in self._servers.items() if label not in kept]
        fresh = {one.label: _Server(one, self._ping_s) for one in configs if one.label not in kept}
        self._servers = {one.label: kept.get(one.label) or fresh[one.label] for one in configs}
        for server in fresh.values():
            server.start()
        await asyncio.gather(*(server.close() for server in ended))

    def _same(self, config: ServerConfig) -> bool:
        server = self._servers.get(config.label)
        return server is not None and server.config == config

    def configs(self) -> list[ServerConfig]:
        """All that may be asked for, in the file's order."""
        return [server.config for server in self._servers.values() if server.config.enabled]

    def states(self) -> list[ServerState]:
        return [
            ServerState(
                server.config.label,
                server.config.transport,
                server.state,
                server.words,
                len(server.tools),
                server.num_calls,
                server.num_restarts,
                server.config.default,
            )
            for server in self._servers.values()
        ]

    async def tools(self, labels: Sequence[str]) -> list[OwnedTool]:
        """What these servers can do now; waits for those that are just starting."""
        servers = [self._servers[label] for label in labels if label in self._servers]
        await asyncio.gather(*(server.settle() for server in servers))
        return [OwnedTool(server.config, tool) for server in servers for tool in server.tools]

    def words(self, label: str) -> str:
        """Why a server's tools are missing, if they are."""
        server = self._servers.get(label)
        return server.words if server else "it has just been taken out of the configuration"

    async def call(self, label: str, tool: str, arguments: dict[str, Any]) -> Result:
        """Run a tool. Raises McpFailure."""
        server = self._server(label)
        if not server.config.allows(tool):
            raise McpFailure(f"the tool {tool} of {label} is not allowed here")
        result = await server.run(lambda connection: connection.call_tool(tool, arguments))
        return Result(*(_redacted(server.config, part) for part in result))

    async def resources(self, label: str) -> list[dict[str, Any]]:
        """What it offers to read. Raises McpFailure."""
        return await self._told(label, lambda connection: connection.list_resources())

    async def prompts(self, label: str) -> list[dict[str, Any]]:
        """Its prompts. Raises McpFailure."""
        return await self._told(label, lambda connection: connection.list_prompts())

    async def read_resource(self, label: str, uri: str) -> list[dict[str, Any]]:
        """Contents of a resource. Raises McpFailure."""
        return await self._told(label, lambda connection: connection.read_resource(uri))

    async def _told(
        self, label: str, work: Callable[[Connection], Coroutine[Any, Any, list[dict[str, Any]]]]
    ) -> list[dict[str, Any]]:
        server = self._server(label)
        return [_redacted(server.config, one) for one in await server.run(work)]

    def _server(self, label: str) -> _Server:
        server = self._servers.get(label)
        if server is None or not server.config.enabled:
            raise McpFailure(f"there is no server {label}")
        return server
