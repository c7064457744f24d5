"""Asking a running broker: status, drain, kill. Numbered questions, each repeated until it is answered."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import typer
import zmq
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from tokenyard.broker import wire
from tokenyard.broker.answers import Collector
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import SetupError
from tokenyard.scripts.broker_peer import BrokerPeer

REPEAT_MS = 100
"""An unanswered question is asked again so often: a connect takes a few ms, an answer less."""
PATIENCE_S = 5.0
"""So long without an answer means that no broker is there: above a broker's restart with its grace."""
SHORT = 8
"""Digits of an incarnation that people see: as good as unique among a pool's workers."""
WATCH_S = 1.0
"""Between two pictures of `status --watch`."""

NUMBERS = ("RUNNING", "TOKENS/S", "MEMORY", "STEPS", "RESTARTS", "SILENT")
GUESSES = ("GUESSED", "RIGHT")
"""Columns of `status`: of every worker, and where one speculates."""

FILE_COLUMNS = 160
"""Of a table that goes to a file or a pipe: nothing is cut there."""

Question = Callable[[int], wire.ControlToBroker]


def ask(broker: BrokerPeer, question: Question, req: int) -> dict[str, Any]:
    """The answer's body. Raises SetupError where the broker refuses, or where none answers in PATIENCE_S."""
    ends_at = time.monotonic() + PATIENCE_S
    collector = Collector()
    while time.monotonic() < ends_at:
        broker.send(question(req))
        broker.socket.poll(REPEAT_MS)
        for message in broker.receive():
            if isinstance(message, wire.Refused):
                raise SetupError(message.words)
            if isinstance(message, wire.Answer) and message.req == req:
                if message.error:
                    raise SetupError(message.error)
                if answer := collector.take(message):
                    return answer.body
    hint = broker.trouble or "is `tokenyard serve` running? (--run-dir or --broker says where)"
    raise SetupError(f"no broker answers; {hint}")


@contextmanager
def broker_of(address: BrokerAddress) -> Iterator[BrokerPeer]:
    with zmq.Context() as context:
        broker = BrokerPeer(context, address)
        try:
            yield broker
        finally:
            broker.close()


def show_status(address: BrokerAddress, watch: bool) -> None:
    """Print the pool's state, once or until Ctrl-C."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_COLUMNS)
    with broker_of(address) as broker:
        req = 1
        body = ask(broker, wire.Status, req)
        if not watch:
            console.print(status_table(body, str(address)))
            return
        live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        with live or nullcontext(), suppress(KeyboardInterrupt):
            while True:
                if live is not None:
                    live.update(status_table(body, str(address)), refresh=True)
                else:
                    console.print(status_table(body, str(address)), end="\n\n")
                time.sleep(WATCH_S)
                req += 1
                body = ask(broker, wire.Status, req)


def pool_status(address: BrokerAddress) -> dict[str, Any]:
    """The broker's answer to Status."""
    with broker_of(address) as broker:
        return ask(broker, wire.Status, 1)


def kill_worker(address: BrokerAddress, prefix: str) -> None:
    """End the worker that `prefix` names at once."""
    with broker_of(address) as broker:
        row = find_worker(ask(broker, wire.Status, 1)["workers"], prefix)
        ask(broker, lambda req: wire.KillWorker(req, bytes.fromhex(row["inc"])), 2)
    typer.echo(f"{row['name']} ({row['inc'][:SHORT]}, pid {row['pid']}) is killed")


def find_worker(rows: Sequence[dict[str, Any]], prefix: str) -> dict[str, Any]:
    """The one worker whose incarnation begins so, or whose pid it is. Raises SetupError where it is not one."""
    found = [row for row in rows if (prefix and row["inc"].startswith(prefix)) or str(row["pid"]) == prefix]
    if len(found) > 1:
        raise SetupError(f"{prefix!r} names {len(found)} workers: {', '.join(row['inc'] for row in found)}")
    if not found:
        known = ", ".join(row["inc"][:SHORT] for row in rows) or "none"
        raise SetupError(f"{prefix!r} names no worker; there are: {known}")
    return found[0]


def _state(row: dict[str, Any], pinned: set[str]) -> str:
    percent = row["load"].get("loading_percent")
    if row["state"] == "loading" and percent is not None:
        return f"loading {percent} %"
    return f"{row['state']}, pinned" if row["inc"] in pinned else str(row["state"])


def _guesses(load: dict[str, int]) -> tuple[str, str]:
    """How many tokens a worker guessed, and the share that was right; nothing where it does not."""
    guessed = load.get("guessed")
    if guessed is None:
        return "", ""
    return f"{guessed:,}", f"{load.get('confirmed', 0) / guessed:.0%}" if guessed else ""


def _place(row: dict[str, Any]) -> str:
    """The worker's device; on another box, with the address that it is called by."""
    endpoint = str(row["endpoint"])
    return (
        f"{row['device']} at {endpoint.removeprefix('tcp://')}" if endpoint.startswith("tcp://") else str(row["device"])
    )


def _refusals(body: dict[str, Any]) -> list[str]:
    """Messages that broker and workers have refused, where there were any."""
    told: dict[str, dict[str, int]] = {"the broker": body.get("broker", {}).get("refused", {})}
    for row in body["workers"]:
        counts = {key.removeprefix("refused_"): n for key, n in row["load"].items() if key.startswith("refused_")}
        told[row["inc"][:SHORT]] = counts
    words = {who: ", ".join(f"{n:,} {reason}" for reason, n in counts.items()) for who, counts in told.items()}
    return [f"{who} refused messages: {counts}" for who, counts in words.items() if counts]


def _many(count: int, kind: str) -> str:
    return f"{count:,} {kind}{'' if count == 1 else 's'}"


def _mebibytes(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / (1 << 20):,.0f} MiB"


def status_table(body: dict[str, Any], place: str) -> Group:
    """The pool as `tokenyard status` shows it. `place`: where its broker is."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    pinned = {post["inc"] for post in body["posts"] if post["pinned"]}
    guessing = any("guessed" in row["load"] for row in body["workers"])
    for title in ("WORKER", "PID", "STATE", "MODEL", "DEVICE", *NUMBERS, *(GUESSES if guessing else ())):
        table.add_column(
            title,
            no_wrap=True,
            min_width=SHORT if title in ("WORKER", "PID") else None,
            justify="right" if title in ("PID", *NUMBERS, *GUESSES) else "left",
        )
    for row in body["workers"]:
        table.add_row(
            row["inc"][:SHORT],
            str(row["pid"]),
            _state(row, pinned),
            ", ".join(row["models"]) or row["name"],
            _place(row),
            f"{row['running']}/{row['capacity']}",
            f"{row['tokens_per_s']:,.0f}",
            _mebibytes(row["load"].get("device_bytes")),
            f"{row['step']:,}",
            "" if row["restarts"] is None else str(row["restarts"]),
            f"{row['silent_s']:.1f} s",
            *(_guesses(row["load"]) if guessing else ()),
        )
    counts = ", ".join(_many(len(body[f"{kind}s"]), kind) for kind in ("worker", "front", "agent"))
    notes = [f"{row['inc'][:SHORT]} is {row['state']}: {row['words']}" for row in body["workers"] if row["words"]]
    queues = {name: row["queued"] for name, row in body["models"].items() if row["queued"]}
    notes += [f"{name}: {num:,} in the broker's queue" for name, num in queues.items()]
    notes += _refusals(body)
    notes += [line for agent in body["agents"] for line in agent["troubles"]]
    notes += [f"{one['model']}: {one['words']}, for {one['waiting_s']:.0f} s now" for one in body["loads"]]
    notes += [f"adapter {one['name']} of {one['base']}: {one['words'] or one['state']}" for one in body["adapters"]]
    return Group(f"{counts} at {place}", table, *notes)
