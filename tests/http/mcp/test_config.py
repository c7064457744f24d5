"""mcp.json: what it may say, and that each mistake names file, server and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from tokenyard.broker.errors import SetupError
from tokenyard.http.mcp.config import ServerConfig, read_servers

ENVIRONMENT = {"TOKEN": "tok-123456", "PORT": "80"}


def read(tmp_path: Path, servers: Any, key: str = "mcpServers") -> list[ServerConfig]:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({key: servers}))
    return read_servers(path, ENVIRONMENT)


def test_the_usual_shape(tmp_path: Path) -> None:
    fs, web, old = read(
        tmp_path,
        {
            "fs": {"command": "npx", "args": ["-y", "server", "/tmp"], "env": {"KEY": "${env:TOKEN}"}, "cwd": "/tmp"},
            "web": {"url": "https://example.org/mcp", "headers": {"Authorization": "Bearer ${env:TOKEN}"}},
            "old": {"type": "sse", "url": "http://127.0.0.1:1/sse", "disabled": True, "autoApprove": []},
        },
    )
    assert (fs.transport, fs.command, fs.args, fs.env, fs.cwd) == (
        "stdio",
        "npx",
        ("-y", "server", "/tmp"),
        {"KEY": "tok-123456"},
        "/tmp",
    )
    assert (web.transport, web.headers) == ("http", {"Authorization": "Bearer tok-123456"})
    assert {"tok-123456", "Bearer tok-123456"} <= web.secrets
    assert (old.transport, old.enabled) == ("sse", False)
    assert (fs.enabled, fs.default, fs.timeout_s, fs.max_result_chars) == (True, True, 60.0, 32_000)


def test_our_own_fields(tmp_path: Path) -> None:
    (one,) = read(
        tmp_path,
        {
            "a": {
                "command": "x",
                "allowed_tools": ["t", "u"],
                "require_approval": ["u"],
                "default": False,
                "timeout_s": 5,
                "max_result_chars": 100,
                "eager": False,
            }
        },
    )
    assert one.allows("t")
    assert not one.allows("v")
    assert one.must_ask("u")
    assert not one.must_ask("t")
    assert (one.default, one.eager, one.timeout_s, one.max_result_chars) == (False, False, 5.0, 100)
    (always,) = read(tmp_path, {"a": {"command": "x", "require_approval": "always"}})
    assert always.must_ask("anything")


def test_tiny_agents_servers_get_names(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        [
            {"type": "stdio", "command": "npx", "args": ["@playwright/mcp@latest"]},
            {"type": "http", "url": "https://hf.co/mcp"},
            {"type": "http", "url": "https://hf.co/other"},
            {"type": "stdio", "config": {"command": "uvx", "args": ["mcp-server-time"]}},
        ],
        key="servers",
    )
    assert len({one.label for one in found}) == 4
    assert [one.transport for one in found] == ["stdio", "http", "http", "stdio"]
    assert found[3].command == "uvx"


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({}, "needs either a command or a url"),
        ({"command": "x", "url": "http://a"}, "needs either a command or a url"),
        ({"command": "x", "colour": 1}, "unknown field 'colour'"),
        ({"command": 1}, "command: must be a text"),
        ({"command": "x", "args": "y"}, "args: must be a list of texts"),
        ({"command": "x", "env": {"A": 1}}, "env: must be an object"),
        ({"command": "x", "env": {"A": "${env:MISSING}"}}, "env: the environment has no MISSING"),
        ({"command": "x", "headers": {"a": "b"}}, "headers: go with a url"),
        ({"command": "x", "type": "http"}, "type: 'http' goes with a url"),
        ({"url": "ftp://x"}, "url: must begin with http"),
        ({"url": "http://x", "args": []}, "args: goes with a command"),
        ({"url": "http://x", "type": "carrier pigeon"}, "type: must be one of"),
        ({"command": "x", "enabled": "yes"}, "enabled: must be true or false"),
        ({"command": "x", "timeout_s": 0}, "timeout_s: must be a number above 0"),
        ({"command": "x", "max_result_chars": 0.5}, "max_result_chars: must be a whole number above 0"),
        ({"command": "x", "require_approval": "sometimes"}, "require_approval: must be"),
        ("npx", "must be an object"),
    ],
)
def test_mistakes_name_the_server_and_the_field(tmp_path: Path, server: Any, words: str) -> None:
    with pytest.raises(SetupError) as caught:
        read(tmp_path, {"mine": server})
    assert words in str(caught.value)
    assert "mcp.json: server 'mine'" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"mcpServers": 1}', '{"other": {}}'])
def test_a_file_of_another_kind(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(text)
    with pytest.raises(SetupError, match=r"mcp\.json"):
        read_servers(path, {})
    with pytest.raises(SetupError, match="No such file"):
        read_servers(tmp_path / "none.json", {})


@pytest.mark.parametrize("label", ["", "has space", "a" * 33, "-x"])
def test_labels_are_plain(tmp_path: Path, label: str) -> None:
    with pytest.raises(SetupError, match="a name has letters"):
        read(tmp_path, {label: {"command": "x"}})
