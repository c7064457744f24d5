"""What the operator of `tokenyard serve` sees: the children's log, the progress of loading, the banner.

On a terminal progress is a spinner below the log; elsewhere each change is a plain line, or one of the supervisor's log
where that is JSON.
"""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from tokenyard.broker.config import RunDir
from tokenyard.broker.logs import JSON_VARIABLE
from tokenyard.scripts.placement import WorkerRow
from tokenyard.scripts.plan import Plan

log = logging.getLogger(__name__)


class Screen:
    """All goes to stderr, in one order. While the spinner runs, rich has put itself in the place of sys.stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("starting")
        self._shown: dict[str, str] = {}
        self._is_json = bool(os.environ.get(JSON_VARIABLE))
        self._is_live = self._console.is_terminal and not self._is_json
        if self._is_live:
            self._status.start()

    def write(self, lines: Sequence[str]) -> None:
        """Log lines, as they came. Whoever reads them may leave; the pool goes on."""
        with suppress(OSError):
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()

    def progress(self, states: Mapping[str, str]) -> None:
        """What each process that is not ready yet is doing."""
        changed = {name: state for name, state in states.items() if self._shown.get(name) != state}
        self._shown = dict(states)
        if self._is_live:
            self._status.update(", ".join(f"{name} {state}" for name, state in states.items()))
        elif self._is_json:
            for name, state in changed.items():
                log.info("%s: %s", name, state)
        else:
            self.write([f"{name}: {state}" for name, state in changed.items()])

    def banner(self, title: str, facts: Mapping[str, str], example: str) -> None:
        """Ends the progress and tells where to go from here; `example` stays one line that can be copied."""
        if self._is_json:
            fields = {name.replace(" ", "_"): words for name, words in facts.items()}
            return log.info("%s", title, extra={"fields": fields | {"example": example}})
        self._status.stop()
        if self._is_live:
            table = Table.grid(padding=(0, 2))
            for name, words in facts.items():
                table.add_row(f"[dim]{name}[/]", words)
            self._console.print(Panel(table, title=f"[bold]{title}[/]", title_align="left", expand=False))
        else:
            self.write([title, *(f"  {name:<8} {words}" for name, words in facts.items())])
        return self.write([example])

    def close(self) -> None:
        """Give the terminal back."""
        self._status.stop()


def describe_worker(row: Mapping[str, Any]) -> str:
    """A worker's state, from its row of the broker's Status answer."""
    percent = row["load"].get("loading_percent")
    if row["state"] == "loading" and percent is not None:
        return f"loading {percent} %"
    return f"{row['state']}: {row['words']}" if row.get("words") else str(row["state"])


def time_and_place(row: WorkerRow | None) -> str:
    """Of a death: when, and of a worker what it served and where, as no name of a post tells."""
    return f"at {time.strftime('%H:%M:%S')}" + (f" ({row.spec.partition(',')[0]} on {row.place})" if row else "")


def pool_facts(plan: Plan, run_dir: RunDir, port: int, body: Mapping[str, Any]) -> tuple[str, dict[str, str], str]:
    """The banner's title, facts and example. `body`: the broker's Status answer."""
    host = f"[{plan.host}]" if ":" in plan.host else plan.host
    url = f"{'https' if plan.tls else 'http'}://{host}:{port}/v1"
    devices: dict[str, Counter[str]] = {}
    for row in body["workers"]:
        if row["models"]:
            devices.setdefault(row["models"][0], Counter())[row["device"]] += 1
    places = {
        model: ", ".join(device + (f" ×{num}" if num > 1 else "") for device, num in found.items())
        for model, found in devices.items()
    }
    facts = {
        "models": "; ".join(f"{model} on {words}" for model, words in places.items()),
        "key": "clients must send one of yours" if plan.api_keys else "none: whoever reaches this address may use it",
        "run dir": f"{run_dir.path} (tokenyard status shows the pool)",
    }
    key = "-H 'Authorization: Bearer KEY' " if plan.api_keys else ""
    question = f'{{"model": "{next(iter(devices), "")}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    example = f"curl {url}/chat/completions {key}-H 'Content-Type: application/json' -d '{question}'"
    return f"Tokenyard {metadata.version('tokenyard')} serves {url}", facts, example
