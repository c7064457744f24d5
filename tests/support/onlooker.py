"""One exchange with an application in this process, watched while it goes on."""

import asyncio
import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from starlette.types import ASGIApp, Message

WAIT_S = 10.0
"""Bound on anything that takes an application milliseconds."""


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


class Onlooker:
    """A client that sends one request, sees all of its answer, and may leave."""

    def __init__(self, app: ASGIApp, method: str, path: str, body: Any = None, headers: Any = ()) -> None:
        self._app = app
        self._scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(name.encode(), value.encode()) for name, value in dict(headers).items()],
            "query_string": b"",
        }
        self._requests: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode()}]
        self._gone = asyncio.Event()
        self.starts: list[Message] = []
        """Heads of answers: one, if all is well."""
        self.text = ""
        self.complete = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._gone.set()
        await asyncio.wait_for(self._task, WAIT_S)

    @property
    def status(self) -> int:
        (start,) = self.starts
        return int(start["status"])

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def comments(self) -> list[str]:
        return [line for line in self.text.split("\n") if line.startswith(":")]

    async def over(self) -> None:
        """Until the application is done with the request."""
        await asyncio.wait_for(asyncio.shield(self._task), WAIT_S)

    def leave(self) -> None:
        self._gone.set()

    async def _run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._requests:
            return self._requests.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.starts.append(message)
            return
        assert self.starts
        assert not self.complete
        self.text += message["body"].decode()
        self.complete = not message.get("more_body", False)
