"""Real MCP servers for tests, of every transport."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mcp_server
import pytest
from yard import free_port, wait_until

from tokenyard.http.mcp.config import ServerConfig

SCRIPT = mcp_server.__file__


def stdio_config(label: str = "trial", **given: Any) -> ServerConfig:
    """A server as a child process; it sees the SDK that this process sees."""
    env = {"PYTHONPATH": os.pathsep.join(sys.path)} | given.pop("env", {})
    return ServerConfig(label, "stdio", command=sys.executable, args=(SCRIPT, "stdio"), env=env, **given)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class WebServer:
    """A server over HTTP that can be ended and started again on its port."""

    def __init__(self, transport: str, folder: Path) -> None:
        self.transport = transport
        self.port = free_port()
        self._log = folder / f"{transport}.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, SCRIPT, self.transport, str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        wait_until(lambda: listening(self.port), f"the {self.transport} server")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def config(self, label: str = "trial", **given: Any) -> ServerConfig:
        path = "mcp" if self.transport == "http" else "sse"
        return ServerConfig(label, self.transport, url=f"http://127.0.0.1:{self.port}/{path}", **given)


@pytest.fixture(params=["http", "sse"])
def web_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WebServer]:
    server = WebServer(request.param, tmp_path)
    yield server
    server.kill()
