"""Mixed traffic for a bounded time, and whether the memory of each process stays flat meanwhile.

    scripts/soak.sh --minutes 30

Clients of every API, some of which send nonsense, leave in mid-stream, read slowly or give up before the answer. Exit
status 1 if a process grew, left descriptors open, or gave an answer that it should not have given.
"""

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import httpx
import psutil
import typer
from machine import load_average, machine, today, versions
from peers import free_port
from tables import markdown

NUM_CLIENTS = 12
SAMPLE_S = 5.0
WARM_UP = 1 / 3
"""Of the time: pools, caches and allocators fill in it."""
MAX_GROWTH_MIB = 4.0
MAX_GROWTH = 0.01
"""From the first quarter of what is measured to the last; the larger of the two. A leak of 1 kB a request is above the
first after some 4,000 requests."""
MAX_NEW_DESCRIPTORS = 10
KV_MEMORY = "16MiB"
"""Of each worker: on a CPU a pool takes memory as its blocks are first written, so one of 64 MiB grows for ten minutes.
This one has room for 3,640 tokens of the demo model, is full within two minutes, and then preempts."""
READY_S = 120.0
HEAD = ["process", "memory after warm-up", "at the end", "growth", "descriptors", "threads", "verdict"]
MODEL = "tokenyard-demo"
SAY = [{"role": "user", "content": "Count from 1 to 9."}]
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


class Sample(NamedTuple):
    mib: float
    num_descriptors: float
    num_threads: float


def _middle(samples: list[Sample]) -> Sample:
    """The median of each."""
    mib, descriptors, threads = zip(*samples, strict=True)
    return Sample(median(mib), median(descriptors), median(threads))


class Clients:
    """What they do, and what came of it."""

    def __init__(self, client: httpx.AsyncClient, rng: random.Random) -> None:
        self._client = client
        self._rng = rng
        self.outcomes: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self._ways: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._stream, 5),
            (self._chat, 3),
            (self._tools, 2),
            (self._responses, 2),
            (self._messages, 2),
            (self._structured, 1),
            (self._nonsense, 2),
            (self._leave, 3),
            (self._give_up, 2),
            (self._read_slowly, 1),
        ]

    async def run(self, until_s: float) -> None:
        ways, weights = zip(*self._ways, strict=True)
        while time.monotonic() < until_s:
            way = self._rng.choices(ways, weights)[0]
            name = way.__name__.strip("_").replace("_", " ")
            try:
                await way()
                self.outcomes[name] += 1
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self.wrong[f"{name}: {error!r}"[:200]] += 1
                await asyncio.sleep(0.2)

    async def _post(self, path: str, body: Any, status: int = 200) -> Any:
        answer = await self._client.post(path, json=body)
        if answer.status_code != status:
            raise ValueError(f"{path}: {answer.status_code} instead of {status}: {answer.text[:120]}")
        return answer.json()

    async def _chat(self) -> None:
        body = {"model": MODEL, "messages": SAY, "max_tokens": self._rng.randint(1, 40)}
        answer = await self._post("/v1/chat/completions", body)
        assert answer["choices"][0]["finish_reason"]

    async def _tools(self) -> None:
        asked = [{"role": "user", "content": f"What's the weather in {self._rng.choice(['Paris', 'Rome', 'Oslo'])}?"}]
        body = {"model": MODEL, "messages": asked, "tools": [TOOL], "max_tokens": 60, "tool_choice": "required"}
        (call,) = (await self._post("/v1/chat/completions", body))["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"

    async def _responses(self) -> None:
        body = {
            "model": MODEL,
            "input": "Count from 1 to 5.",
            "max_output_tokens": 24,
            "store": self._rng.random() < 0.3,
        }
        await self._post("/v1/responses", body)

    async def _messages(self) -> None:
        await self._post("/v1/messages", {"model": MODEL, "messages": SAY, "max_tokens": 24})

    async def _structured(self) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        form = {"type": "json_schema", "json_schema": {"name": f"s{self._rng.randint(1, 30)}", "schema": schema}}
        await self._post(
            "/v1/chat/completions", {"model": MODEL, "messages": SAY, "max_tokens": 20, "response_format": form}
        )

    async def _nonsense(self) -> None:
        path, body, status = self._rng.choice(
            [
                ("/v1/chat/completions", {"model": MODEL, "messages": "no list"}, 400),
                ("/v1/chat/completions", {"model": MODEL, "messages": SAY, "temperature": "hot"}, 400),
                ("/v1/completions", {"model": f"no-{self._rng.random()}", "prompt": "x"}, 404),
                ("/v1/completions", {"model": MODEL, "prompt": "x " * 9000}, 400),
                ("/v1/nowhere", {}, 404),
            ]
        )
        await self._post(path, body, status)

    async def _stream(self) -> None:
        await self._read(self._rng.randint(10, 200), lambda count: True)

    async def _leave(self) -> None:
        stays = self._rng.randint(1, 30)
        await self._read(500, lambda count: count < stays)

    async def _read_slowly(self) -> None:
        await self._read(80, lambda count: True, pause_s=0.02)

    async def _give_up(self) -> None:
        try:
            await self._client.post(
                "/v1/completions",
                json={"model": MODEL, "prompt": "x", "max_tokens": 800, "ignore_eos": True},
                timeout=self._rng.uniform(0.01, 0.3),
            )
        except httpx.TimeoutException:
            return

    async def _read(self, num_tokens: int, goes_on: Callable[[int], bool], pause_s: float = 0.0) -> None:
        body = {"model": MODEL, "messages": SAY, "max_tokens": num_tokens, "ignore_eos": True, "stream": True}
        if self._rng.random() < 0.5:
            body |= {"temperature": 0.8, "seed": self._rng.randint(0, 1 << 30)}
        count, ended = 0, False
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                count += line.startswith("data: {")
                ended |= line == "data: [DONE]"
                if not goes_on(count):
                    return
                await asyncio.sleep(pause_s)
        if not ended:
            raise ValueError("a stream without an end")


class Watch:
    """Samples of every process of the pool."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self.samples: defaultdict[str, list[Sample]] = defaultdict(list)

    async def run(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            for process in [self._root, *self._root.children(recursive=True)]:
                try:
                    command = process.cmdline()
                    name = next(one for one in ("serve", "broker", "front", "worker", "standby") if one in command)
                    memory = process.memory_full_info().uss / (1 << 20)
                    sample = Sample(memory, process.num_fds(), process.num_threads())
                except (psutil.NoSuchProcess, psutil.ZombieProcess, StopIteration):
                    continue
                self.samples[f"{name} {process.pid}"].append(sample)
            await asyncio.sleep(SAMPLE_S)

    def rows(self) -> tuple[list[list[str]], bool]:
        """A table's, and whether all is flat."""
        rows, flat = [], True
        for name, samples in self.samples.items():
            measured = samples[int(len(samples) * WARM_UP) :]
            quarter = max(1, len(measured) // 4)
            first, last = _middle(measured[:quarter]), _middle(measured[-quarter:])
            growth = last.mib - first.mib
            grew = growth > max(MAX_GROWTH_MIB, MAX_GROWTH * first.mib)
            grew |= last.num_descriptors - first.num_descriptors > MAX_NEW_DESCRIPTORS
            flat &= not grew
            descriptors = f"{first.num_descriptors:.0f} → {last.num_descriptors:.0f}"
            threads = f"{first.num_threads:.0f} → {last.num_threads:.0f}"
            memory = [f"{first.mib:.0f} MiB", f"{last.mib:.0f} MiB", f"{growth:+.1f} MiB"]
            rows.append([name.split()[0], *memory, descriptors, threads, "grew" if grew else "flat"])
        return rows, flat


@contextmanager
def pool(port: int) -> Iterator[psutil.Process]:
    """Two workers, a front and a broker, ready; ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        command = [sys.executable, "-m", "tokenyard.scripts.cli", "serve", "--workers", "2", "--port", str(port)]
        command += ["--run-dir", str(Path(folder) / "run"), "--device", "cpu", "--threads", "1", "--log-level", "error"]
        command += ["--kv-memory", KV_MEMORY]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            end_s = time.monotonic() + READY_S
            while not _is_ready(port):
                if time.monotonic() > end_s or process.poll() is not None:
                    raise RuntimeError("the pool does not start")
                time.sleep(0.2)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _is_ready(port: int) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).json().get("workers") == 2)
    except httpx.TransportError:
        return False


async def soak(port: int, root: psutil.Process, seconds: float, seed: int) -> tuple[Clients, Watch]:
    until_s = time.monotonic() + seconds
    watch = Watch(root)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        clients = Clients(client, random.Random(seed))
        await asyncio.gather(watch.run(until_s), *(clients.run(until_s) for _ in range(NUM_CLIENTS)))
    return clients, watch


def main(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long, starting and ending apart.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the clients' choices.")] = 0,
) -> None:
    """Soak a pool and print what became of it, as Markdown."""
    port = free_port()
    with pool(port) as root:
        clients, watch = asyncio.run(soak(port, root, 60 * minutes, seed))
    rows, flat = watch.rows()
    done = ", ".join(f"{name} {count:,}" for name, count in clients.outcomes.most_common())
    typer.echo(f"{today()}, {machine('cpu')}, load average {load_average()}, {versions()}")
    typer.echo(f"{minutes:g} minutes, {NUM_CLIENTS} clients, {sum(clients.outcomes.values()):,} requests: {done}\n")
    typer.echo(markdown(HEAD, rows))
    for words, count in clients.wrong.most_common():
        typer.echo(f"WRONG, {count} times: {words}")
    raise typer.Exit(0 if flat and not clients.wrong else 1)


if __name__ == "__main__":
    typer.run(main)
