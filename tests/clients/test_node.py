"""The openai package for node and the Vercel AI SDK, unmodified, against a real server.

Their packages are installed once, by npm, into a folder of the user's cache.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from yard import Yard

pytestmark = [pytest.mark.slow, pytest.mark.node]

PACKAGES = ("openai@7", "ai@7", "@ai-sdk/openai-compatible@3", "zod@4")
INSTALL_S = 120
RUN_S = 100


@pytest.fixture(scope="module")
def folder() -> Path:
    """Where the packages are; tests are skipped where they cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenyard" / "node"
    cache.mkdir(parents=True, exist_ok=True)
    if not all((cache / "node_modules" / name[: name.rindex("@")]).is_dir() for name in PACKAGES):
        install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(cache), *PACKAGES]
        done = subprocess.run(install, capture_output=True, text=True, timeout=INSTALL_S)
        if done.returncode:
            pytest.skip(f"npm cannot install {', '.join(PACKAGES)}: {done.stderr[-300:]}")
    return cache


@pytest.fixture(scope="module")
def heard(server: Yard, folder: Path) -> dict[str, Any]:
    """What the clients understood."""
    # Beside its packages, since node looks for them there.
    script = shutil.copy(Path(__file__).with_name("node_clients.mjs"), folder)
    command = ["node", script, server.url, "tokenyard-demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("client", ["openai", "vercel"])
def test_chat_stream_tools_and_structured_output(heard: dict[str, Any], client: str) -> None:
    answers = heard[client]
    assert "Paris" in answers["whole"]
    assert answers["streamed"] == answers["whole"]
    assert answers["call"] == ["get_weather", {"city": "Paris"}]
    assert "sunny" in answers["quoted"]
    assert answers["structured"] in ({"big": True}, {"big": False})


def test_what_only_one_of_them_tells(heard: dict[str, Any]) -> None:
    assert heard["openai"]["refused"] == [400, "messages"]
    assert heard["vercel"]["usage"] > 1
    assert "sunny" in heard["vercel"]["quotedInStream"]
