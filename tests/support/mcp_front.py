"""The whole HTTP application with real MCP servers and a scripted model, in this process."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from mcp_servers import stdio_config
from models import CARD, demo_tokenizer
from scripted import Job, ScriptedPool
from starlette.types import ASGIApp

from tokenyard.http.app import create_app
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool

MODEL = CARD.names[0]


class McpFront(NamedTuple):
    """A running application and the model behind it."""

    app: ASGIApp
    pool: ScriptedPool

    def prompt_ids(self, turn: int) -> list[int]:
        """What the model was given for its turn."""
        return list(self.pool.jobs[turn].request.prompt_ids)

    def prompt(self, turn: int) -> str:
        text: str = demo_tokenizer().backend.decode(self.prompt_ids(turn), skip_special_tokens=False)
        return text


def as_entry(**more: Any) -> dict[str, Any]:
    """tests/support/mcp_server.py over stdio, as mcp.json has it."""
    config = stdio_config()
    return {"command": config.command, "args": list(config.args), "env": dict(config.env), **more}


def calls(*wanted: tuple[str, dict[str, Any]]) -> str:
    """A turn in which the model calls tools."""
    return "".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>" for name, arguments in wanted
    )


def turns(*texts: str) -> Callable[[Job], None]:
    """The model's turns, one after the other; the last one again where there are more."""
    left = list(texts)

    def play(job: Job) -> None:
        job.run()
        job.say(left.pop(0) if len(left) > 1 else left[0])
        job.end()

    return play


@asynccontextmanager
async def mcp_front(
    folder: Path, servers: dict[str, dict[str, Any]], *texts: str, **options: Any
) -> AsyncIterator[McpFront]:
    """An application that was started, whose model says these turns."""
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    pool = ScriptedPool(CARD)
    pool.play = turns(*texts)
    app = create_app(cast(Pool, pool), FrontOptions(run_dir=folder, store="off", mcp=path, **options))
    to_app: asyncio.Queue[Any] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(cast(Any, app)({"type": "lifespan"}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    try:
        yield McpFront(app, pool)
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
        await life
        gc.collect()  # what the SDK left unclosed warns here, where that is allowed for
