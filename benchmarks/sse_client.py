"""The load: a process of its own that keeps streams open against one server and notes when each event came.

Reads a Load as JSON on stdin, writes a Measured as JSON on stdout. It only stamps and stores while it measures; events
are parsed after the last one. Knows nothing of which server it talks to.
"""

import asyncio
import json
import sys
import time
from typing import Any, NamedTuple

from sse_reader import Record, ResponseReader, read_record

TIMEOUT_S = 600.0
"""Bound on one load: far above the slowest peer at 32 streams."""


class Load(NamedTuple):
    """`concurrency` workers take the bodies in order, each sending its next when its last has ended: a closed loop."""

    host: str
    port: int
    path: str
    bodies: list[dict[str, Any]]
    concurrency: int
    intruder: dict[str, Any] | None = None
    """A body that is sent once, while the others run: when the first of them has had `intruder_after` events."""
    intruder_after: int = 0


class Measured(NamedTuple):
    records: list[Record]
    intruder: Record | None
    cpu_s: float
    """Of this process while it measured: it must stay far below the time it took."""
    wall_s: float


class Exchange(asyncio.Protocol):
    """One request on one connection."""

    def __init__(self, request: bytes, alarm: asyncio.Event, alarm_after: int) -> None:
        self.sent_s = time.perf_counter()
        self.events: list[tuple[float, bytes]] = []
        self.ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._request = request
        self._reader = ResponseReader()
        self._alarm = alarm
        self._alarm_after = alarm_after

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        self.events.extend((now_s, event) for event in self._reader.feed(data))
        if len(self.events) >= self._alarm_after:
            self._alarm.set()
        if self._reader.complete:
            self._transport.close()
            self.ended.set_result(now_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(ConnectionError(f"the server closed the connection early: {exc}"))

    async def finish(self) -> float:
        """The time of the end. Raises ConnectionError with the server's words if it refused."""
        end_s = await self.ended
        if self._reader.status != 200:
            raise ConnectionError(f"HTTP {self._reader.status}: {self._reader.text.decode(errors='replace')}")
        return end_s


def encode(load: Load, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {load.path} HTTP/1.1\r\nHost: {load.host}:{load.port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def measure(load: Load) -> Measured:
    """Run the whole load and parse what came."""
    loop = asyncio.get_running_loop()
    queue = iter([encode(load, body) for body in load.bodies])
    exchanges: list[tuple[Exchange, float]] = []
    alarm = asyncio.Event()

    async def send(request: bytes) -> tuple[Exchange, float]:
        exchange = Exchange(request, alarm, load.intruder_after)
        await loop.create_connection(lambda: exchange, load.host, load.port)
        return exchange, await exchange.finish()

    async def keep_one_open() -> None:
        for request in queue:
            exchanges.append(await send(request))

    async def intrude(body: dict[str, Any]) -> tuple[Exchange, float]:
        request = encode(load, body)
        await alarm.wait()
        return await send(request)

    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        intruder = group.create_task(intrude(load.intruder)) if load.intruder else None
        for _ in range(load.concurrency):
            group.create_task(keep_one_open())
    wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    return Measured(
        [read_record(exchange.sent_s, exchange.events, end_s) for exchange, end_s in exchanges],
        read_record(intruder.result()[0].sent_s, intruder.result()[0].events, intruder.result()[1])
        if intruder
        else None,
        cpu_s,
        wall_s,
    )


def main() -> None:
    load = Load(*json.load(sys.stdin))
    json.dump(asyncio.run(measure(load)), sys.stdout)


if __name__ == "__main__":
    main()
