"""The one module that knows the MCP SDK: connects to a server and speaks with it in plain values, by mcp 1.26+ or 2.x.

What comes back is as it stands on the wire (camelCase, from the specification's schema), so that the SDK's models,
which differ between its major versions, go no further. Decides nothing: who connects when is hub.py's matter.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from mcp import ClientSession, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared import _httpx_utils, exceptions
from mcp.types import Implementation, PaginatedRequestParams

from tokenyard.broker.errors import first_line
from tokenyard.http.mcp import child
from tokenyard.http.mcp.config import ServerConfig

for _noisy in ("mcp.client", "httpx", "httpx2", "httpcore"):
    # They write addresses, headers and messages, and with them secrets; what fails is told by McpFailure.
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)

MAJOR = int(version("mcp").partition(".")[0])
_SdkError: type[Exception] = getattr(exceptions, "McpError" if MAJOR == 1 else "MCPError")
"""A server's error answer."""
_HttpError: type[Exception] = getattr(_httpx_utils, "httpx" if MAJOR == 1 else "httpx2").HTTPError
FAILURES = (
    *(_SdkError, _HttpError, OSError, ValueError, RuntimeError, ExceptionGroup),
    *(anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream),
)
"""What the SDK raises where a server, or the way to it, is at fault; TimeoutError is an OSError."""

MAX_PAGES = 100
"""Of one listing: a server that always names a next page ends here."""
MAX_MESSAGE_BYTES = 64 << 20
"""Over HTTP; mcp 2.x would end the connection at 1 MiB, 1.x and the other transports know no limit."""
MAX_LOG_LINE = 500
"""Characters of a line on a server's stderr."""
GONE = ("connection closed", "session terminated", "session not found")
"""What the SDK's errors say where the session is of no more use; servers have no common code for it."""


class McpFailure(Exception):
    """A server could not be reached, or could not do what was asked; the words are for people and models."""

    def __init__(self, words: str, lost: bool = False) -> None:
        super().__init__(words)
        self.words = words
        self.lost = lost
        """The connection is of no more use."""


class Tool(NamedTuple):
    """What a server says that it can do."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the arguments."""
    annotations: dict[str, Any]


class Result(NamedTuple):
    """What a call gave."""

    content: list[dict[str, Any]]
    """Blocks: text, image, audio, resource_link, resource."""
    structured: Any
    is_error: bool


class Listeners(NamedTuple):
    """Whom a connection tells of what it was not asked for."""

    changed: Callable[[], None]
    """Its tools are others now."""
    logged: Callable[[str], None]
    """A line on its stderr, or a log message."""
    closing: Callable[[], None]
    """It is being closed."""


class Connection:
    """An open session. Its methods raise McpFailure."""

    def __init__(self, session: ClientSession, lost: asyncio.Event, capabilities: dict[str, Any]) -> None:
        self._session = session
        self.lost = lost
        """Set once the far end is gone, as far as one can see."""
        self._capabilities = capabilities

    async def list_tools(self) -> list[Tool]:
        return [
            Tool(
                one["name"],
                one.get("description") or one.get("title") or "",
                one.get("inputSchema") or {"type": "object"},
                one.get("annotations") or {},
            )
            for one in await self._list("tools")
        ]

    async def list_resources(self) -> list[dict[str, Any]]:
        return await self._list("resources") if "resources" in self._capabilities else []

    async def list_prompts(self) -> list[dict[str, Any]]:
        return await self._list("prompts") if "prompts" in self._capabilities else []

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Result:
        """Waits for as long as it takes: cancel it when time is over, which mcp 2.x tells the server."""
        try:
            value = _plain(await self._session.call_tool(name, arguments))
        except RuntimeError as error:  # the SDK's own check of structured results against the tool's schema
            return Result([{"type": "text", "text": str(error)}], None, True)
        except FAILURES as error:
            raise self._failure(error) from error
        return Result(value.get("content") or [], value.get("structuredContent"), bool(value.get("isError")))

    async def read_resource(self, uri: str) -> list[dict[str, Any]]:
        """Contents: each has `text` or `blob`."""
        try:
            wanted: Any = uri  # a pydantic AnyUrl in mcp 1.x, a str in 2.x; either takes this
            contents: list[dict[str, Any]] = _plain(await self._session.read_resource(wanted))["contents"]
        except FAILURES as error:
            raise self._failure(error) from error
        return contents

    async def ping(self) -> None:
        try:
            await self._session.send_ping()
        except FAILURES as error:
            raise self._failure(error) from error

    async def _list(self, what: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            params = PaginatedRequestParams(cursor=cursor) if cursor else None
            try:
                page = _plain(await getattr(self._session, f"list_{what}")(params=params))
            except FAILURES as error:
                raise self._failure(error) from error
            found += page[what]
            if not (cursor := page.get("nextCursor")):
                break
        return found

    def _failure(self, error: Exception) -> McpFailure:
        said = str(getattr(getattr(error, "error", None), "message", "")) if isinstance(error, _SdkError) else ""
        lost = not said or any(words in said.lower() for words in GONE)
        return McpFailure(said or describe(error), lost=lost or self.lost.is_set())


@asynccontextmanager
async def connect(config: ServerConfig, listeners: Listeners, timeout_s: float) -> AsyncIterator[Connection]:
    """An open, greeted session, closed at the end with all that was started for it. Raises McpFailure.

    Enter and leave it in one task: the SDK's cancel scopes are bound to it.
    """
    lost = asyncio.Event()

    async def on_message(message: Any) -> None:
        method = getattr(getattr(message, "root", message), "method", "")
        if method == "notifications/tools/list_changed":
            listeners.changed()

    async def on_log(params: Any) -> None:
        listeners.logged(str(params.data)[:MAX_LOG_LINE])

    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(timeout_s):
                read, write, *_ = await stack.enter_async_context(_transport(config, listeners))
                watched = await stack.enter_async_context(_watched(read, lost))
                stack.callback(listeners.closing)
                session = await stack.enter_async_context(
                    ClientSession(
                        watched,
                        write,
                        message_handler=on_message,
                        logging_callback=on_log,
                        client_info=Implementation(name="tokenyard", version=version("tokenyard")),
                    )
                )
                about = _plain(await session.initialize())
                stack.callback(listeners.closing)  # again: what was entered last is left first
        except TimeoutError as error:
            raise McpFailure(f"it did not greet within {timeout_s:g} s", lost=True) from error
        except FAILURES as error:
            raise McpFailure(describe(error), lost=True) from error
        yield Connection(session, lost, about.get("capabilities", {}))


@asynccontextmanager
async def _transport(config: ServerConfig, listeners: Listeners) -> AsyncIterator[Any]:
    """The SDK's streams to a server."""
    if config.transport == "stdio":
        wrapped = ["-I", str(Path(child.__file__)), str(os.getpid()), config.command, *config.args]
        parameters = StdioServerParameters(
            command=sys.executable,
            args=wrapped,
            env=dict(config.env),
            cwd=config.cwd,
            encoding_error_handler="replace",
        )
        with _Stderr(listeners.logged) as errors:
            async with stdio_client(parameters, errlog=errors) as streams:
                yield streams
    elif config.transport == "sse":
        async with sse_client(config.url, headers=dict(config.headers), httpx_client_factory=_http_client) as streams:
            yield streams
    else:
        options: dict[str, Any] = {} if MAJOR == 1 else {"max_sse_event_size": MAX_MESSAGE_BYTES}
        async with (
            _http_client(headers=dict(config.headers)) as client,
            streamable_http_client(config.url, http_client=client, **options) as streams,
        ):
            yield streams


def _http_client(headers: dict[str, str] | None = None, timeout: Any = None, auth: Any = None) -> Any:
    """The SDK's client, which follows a server's redirects only within that server, as mcp 2.x does by itself."""
    client = _httpx_utils.create_mcp_http_client(headers, timeout, auth)
    if MAJOR == 1:
        client.event_hooks = {"response": [_stay]}
    return client


async def _stay(response: Any) -> None:
    """Raise where a response leads elsewhere: its headers hold keys, and this machine's network is no business of the
    server's.
    """
    if response.has_redirect_location:
        old, new = response.url, response.url.join(response.headers["location"])
        if (old.scheme, old.host, old.port) != (new.scheme, new.host, new.port):
            raise _HttpError(f"it redirects to another host, {new.host}")


@asynccontextmanager
async def _watched(read: Any, lost: asyncio.Event) -> AsyncIterator[Any]:
    """The same stream, and `lost` set when it ends: the SDK's session keeps that to itself."""
    sender, receiver = anyio.create_memory_object_stream[Any](0)

    async def forward() -> None:
        try:
            async with sender:
                async for message in read:
                    await sender.send(message)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return  # closed from our side
        finally:
            lost.set()

    forwarding = asyncio.create_task(forward())
    try:
        yield receiver
    finally:
        forwarding.cancel()
        await asyncio.wait([forwarding])
        receiver.close()


class _Stderr:  # used as a context manager only
    """A file for a child's stderr, whose lines are told as they come."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._partial = b""

    def __enter__(self) -> Any:
        self._reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)
        self._file = os.fdopen(writing, "w")
        asyncio.get_running_loop().add_reader(self._reading, self._read)
        return self._file

    def __exit__(self, *exception: object) -> None:
        asyncio.get_running_loop().remove_reader(self._reading)
        os.close(self._reading)
        self._file.close()

    def _read(self) -> None:
        try:
            data = os.read(self._reading, 1 << 16)
        except BlockingIOError:
            return
        *lines, rest = (self._partial + data).split(b"\n")
        self._partial = rest[:MAX_LOG_LINE]
        for line in lines:
            if text := line[:MAX_LOG_LINE].decode(errors="replace").strip():
                self._told(text)


def _plain(model: Any) -> dict[str, Any]:
    """An SDK's model as it stands on the wire."""
    value: dict[str, Any] = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return value


def describe(error: BaseException) -> str:
    """What went wrong, in one line; of a group of failures, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return first_line(error)[:MAX_LOG_LINE]
