"""The OpenAPI document's examples, acted out on the application over a scripted pool.

`PYTHONPATH=tests/support python tests/support/examples.py` records what it answers; tests compare.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
from front import OPTIONS, decides, request, says
from models import CARD
from scripted import Job, ScriptedPool

from tokenyard.broker.wire import Finish
from tokenyard.http.app import create_app
from tokenyard.http.catalog.adapters import AdapterPolicy
from tokenyard.http.openapi import document
from tokenyard.http.pool import Pool

PATH = Path(document.__file__).with_name(document.EXAMPLES)

RECORDED_BY_HAND = (
    "/v1/mcp/servers",
    "/v1/mcp/tools",
    "/v1/mcp/resources",
    "/v1/mcp/prompts",
    document.PATH,
    "/metrics",
)
"""No MCP server runs here, the document is no example of itself, and every scrape is another."""

_MADE_BY = {"/v1/responses": "response_id", "/v1/conversations": "conversation_id"}
"""Whose answer's id stands in later paths."""


def plays(text: str) -> Callable[[Job], None]:
    """A job of any kind: says the text, embeds, or decides."""

    def play(job: Job) -> None:
        if job.request.kind == "embed":
            job.run()
            job.sink.delta([], {"embedding": np.array([0.6, 0.0, 0.8], "<f4").tobytes()}, Finish("stop"))
        elif job.request.kind == "score":
            decides(0.25, 0.75, 0.125)(job)
        else:
            says(text)(job)

    return play


def shown(response: httpx.Response) -> Any:
    """An answer as the document shows it."""
    return response.json() if "json" in response.headers["content-type"] else response.text


async def act(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All examples, each with what the application answers now; every one must succeed."""
    pool = ScriptedPool(CARD)
    loras = AdapterPolicy(allow=("*",))
    app = create_app(cast(Pool, pool), replace(OPTIONS, store=str(folder / "responses.db"), loras=loras))
    names = {"name": CARD.names[0]}
    found: dict[str, list[dict[str, Any]]] = {}
    for key, examples in json.loads(PATH.read_text()).items():
        method, path = key.split(" ")
        found[key] = []
        for example in examples:
            pool.play = plays(example.get("says", "Hello!"))
            if path in RECORDED_BY_HAND:
                found[key].append(example)
                continue
            given = {"json": example["request"]} if "request" in example else {}
            response = await request(
                app, method, path.format(**names), params=example.get("query"), headers=example.get("headers"), **given
            )
            assert response.status_code == 200, f"{key}: {response.text}"
            answer = shown(response)
            found[key].append({**example, "answer": answer})
            if path in _MADE_BY and isinstance(answer, dict):
                names[_MADE_BY[path]] = answer["id"]
            if path.endswith("/items"):
                names["item_id"] = answer["data"][0]["id"]
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(act(Path(folder)))
    # An example a line, so that changes can be read.
    lists = []
    for key, examples in found.items():
        lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in examples)
        lists.append(f"{json.dumps(key)}: [\n{lines}\n]")
    PATH.write_text("{\n" + ",\n".join(lists) + "\n}\n")


if __name__ == "__main__":
    sys.exit(main())
