"""The `tiny-agents` command, unmodified, with MCP servers of its own over every transport, on the bundled model."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp_servers import SCRIPT, WebServer
from yard import Yard, wait_until

pytestmark = pytest.mark.slow

QUESTION = "What is the weather in Paris?"


def run_agent(folder: Path, url: str, server: dict[str, Any], question: str, until: str) -> str:
    """What the command prints for a person who asks this and leaves once the answer holds `until` twice over.

    Once is the tool's result, which the command prints; the second time, the model says it.
    """
    folder.mkdir()
    config = {"model": "tokenyard-demo", "endpointUrl": f"{url}/v1", "servers": [server]}
    (folder / "agent.json").write_text(json.dumps(config))
    (folder / "PROMPT.md").write_text("You are a helpful assistant.")
    with (folder / "shown").open("wb") as shown:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("tiny-agents")), "run", str(folder)],
            stdin=subprocess.PIPE,
            stdout=shown,
            stderr=shown,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )

    def text() -> str:
        return (folder / "shown").read_text(errors="replace")

    try:
        assert process.stdin is not None
        process.stdin.write(f"{question}\n".encode())
        process.stdin.flush()
        wait_until(lambda: text().count(until) >= 2 or process.poll() is not None, "the agent's answer", 40)
    finally:
        process.kill()  # at the end of its input it would ask the empty question for ever
        process.communicate()
    return text()


@pytest.fixture(params=["stdio", "http", "sse"])
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A server as agent.json has it."""
    allowed = {"allowed_tools": ["get_weather"]}
    if request.param == "stdio":
        env = {"PYTHONPATH": os.pathsep.join(sys.path)}
        yield {"type": "stdio", "command": sys.executable, "args": [SCRIPT, "stdio"], "env": env, **allowed}
        return
    web = WebServer(request.param, tmp_path)
    yield {"type": request.param, "url": web.config().url, **allowed}
    web.kill()


def test_its_tools_are_called_and_their_results_come_back(
    server: Yard, own_server: dict[str, Any], tmp_path: Path
) -> None:
    shown = run_agent(tmp_path / "agent", server.url, own_server, QUESTION, "21 degrees")
    assert "get_weather" in shown
    assert "It is sunny in Paris, 21 degrees." in shown
    assert shown.count("21 degrees") >= 2
    assert "Error" not in shown
