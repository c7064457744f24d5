"""`tokenyard drain`: one worker after another is emptied and replaced. Asks, and tells how far it is; agents do it."""

import time
from collections.abc import Sequence
from itertools import count
from typing import Any

import typer

from tokenyard.broker import wire
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import SetupError
from tokenyard.scripts.broker_peer import BrokerPeer
from tokenyard.scripts.control import SHORT, ask, broker_of, find_worker

LOOK_S = 0.25
"""Between two looks at what has become of it, with the request repeated: half of the beat that states come with."""

Row = dict[str, Any]
"""Of a worker, in the answer to Status."""


def drain_workers(address: BrokerAddress, names: Sequence[str], successor: str, timeout_s: float) -> int:
    """Drain the workers that `names` name, all where there is none; the exit status. Raises SetupError.

    It ends with the first that cannot be replaced: what is wrong with that one may be wrong with all.
    """
    with broker_of(address) as broker:
        reqs = count(1)
        rows = choose(ask(broker, wire.Status, next(reqs))["workers"], names)
        for place, row in enumerate(rows):
            try:
                _drain(broker, reqs, row, successor, round(1000 * timeout_s))
            except KeyboardInterrupt:
                typer.echo(f"{_short(row)} goes on without being watched")
                return 130
            except SetupError as error:
                typer.echo(f"{_short(row)}: {error}", err=True)
                if left := rows[place + 1 :]:
                    typer.echo(f"not begun: {', '.join(map(_short, left))}", err=True)
                return 1
    return 0


def choose(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The workers to drain, each once. Raises SetupError for a name that is no worker or model, and for one that loads.

    Without names: all but those that load, which have nothing to drain and are as fresh as can be.
    """
    if not names:
        return [row for row in rows if row["state"] != "loading"]
    chosen: list[Row] = []
    for name in names:
        found = [row for row in rows if name in row["models"]] or [find_worker(rows, name)]
        for row in found:
            if row["state"] == "loading" and len(found) == 1:
                raise SetupError(f"{_short(row)} is still loading, and has nothing to drain; tokenyard kill ends it")
            if row not in chosen and row["state"] != "loading":
                chosen.append(row)
    return chosen


def _drain(broker: BrokerPeer, reqs: "count[int]", row: Row, successor: str, timeout_ms: int) -> None:
    """One worker, until its agent says that all is done. Raises SetupError where it is not."""
    inc, req = row["inc"], next(reqs)
    model = ", ".join(row["models"]) or row["name"]
    typer.echo(f"{_short(row)} ({model} on {row['device']}, pid {row['pid']}) {_streams(row)}")
    shown = ""
    while True:
        answer = _ask_once(broker, wire.DrainWorker(req, bytes.fromhex(inc), successor, timeout_ms))
        if answer is not None:
            if answer.error:
                raise SetupError(answer.error)
            new = answer.body["successor"][:SHORT]
            return typer.echo(f"  {f'{new} has its place' if new else 'it has gone'}")
        body = ask(broker, wire.Status, next(reqs))
        if (words := _describe(body, inc, successor)) != shown:
            typer.echo(f"  {words}")
            shown = words


def _ask_once(broker: BrokerPeer, question: wire.DrainWorker) -> wire.Answer | None:
    """Its answer, if that comes before the next look."""
    broker.send(question)
    ends_at = time.monotonic() + LOOK_S
    while (left_s := ends_at - time.monotonic()) > 0:
        broker.socket.poll(int(1000 * left_s) + 1)
        for message in broker.receive():
            if isinstance(message, wire.Answer) and message.req == question.req:
                return message
    return None


def _describe(body: dict[str, Any], inc: str, successor: str) -> str:
    """What is going on with this worker."""
    old = next((row for row in body["workers"] if row["inc"] == inc), None)
    new_inc = next((post["inc"] for post in body["posts"] if post["predecessor"] == inc != post["inc"]), "")
    new = next((row for row in body["workers"] if row["inc"] == new_inc), None)
    if old is not None and old["state"] == "draining":
        return f"it drains, and {_streams(old)}"
    if old is None and successor == "none":
        return "it has gone"
    if new is not None and new["state"] == "loading":
        return f"its successor {new_inc[:SHORT]} loads ({new['load'].get('loading_percent', 0)} %)"
    if new is not None:
        return f"its successor {new_inc[:SHORT]} is {new['state']}"
    return "its successor starts" if successor != "none" else "it is told to drain"


def _streams(row: Row) -> str:
    return f"runs {row['running']} stream{'' if row['running'] == 1 else 's'}"


def _short(row: Row) -> str:
    return str(row["inc"][:SHORT])
