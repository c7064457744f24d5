"""mcp.json: which MCP servers there are and how far each is trusted. Also reads tiny-agents' own agent.json.

A mistake is a SetupError that names the file, the server and the field. Reads one file and the environment; starts
nothing.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tokenyard.broker.errors import SetupError

TIMEOUT_S = 60.0
MAX_RESULT_CHARS = 32_000
"""Of one tool's result: 8,000 tokens or so, a fifth of a common context (design: MCP, limits)."""

TRANSPORTS = {"stdio": "stdio", "http": "http", "streamable-http": "http", "streamable_http": "http", "sse": "sse"}
"""Names that clients' files use, and ours for each."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One server. Secrets stand in `env`, `headers` and `url`; never log those unredacted."""

    label: str
    """Its name in requests, and the first half of its tools' names."""
    transport: str
    """stdio, http (streamable) or sse."""
    command: str = ""
    args: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """On top of the few variables that the SDK hands down (PATH, HOME and the like)."""
    cwd: str | None = None
    url: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    enabled: bool = True
    default: bool = True
    """Whether its tools are offered where a request chooses none."""
    eager: bool = True
    """Connect at start; else at the first request that wants its tools."""
    allowed_tools: frozenset[str] | None = None
    """None: all that it lists."""
    require_approval: frozenset[str] | bool = False
    """Tools whose calls a person must approve; True: all."""
    timeout_s: float = TIMEOUT_S
    """Of one call, or of one look at resources."""
    max_result_chars: int = MAX_RESULT_CHARS
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    """Values that must never be shown."""

    def allows(self, tool: str) -> bool:
        return self.allowed_tools is None or tool in self.allowed_tools

    def must_ask(self, tool: str) -> bool:
        """Whether a call of this tool waits for approval."""
        return self.require_approval if isinstance(self.require_approval, bool) else tool in self.require_approval

    def redacted(self, text: str) -> str:
        """The text without this server's secrets; of two that begin alike, the whole longer one is left out."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def read_servers(path: Path, environment: Mapping[str, str] = os.environ) -> list[ServerConfig]:
    """All servers of a file, disabled ones too. Raises SetupError."""
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise SetupError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise SetupError(f"{path}: an object with mcpServers belongs here")
    servers = value.get("mcpServers", value.get("servers"))
    if isinstance(servers, list):  # agent.json: unnamed
        servers = _named(path, servers)
    if not isinstance(servers, dict):
        raise SetupError(f"{path}: mcpServers must be an object from names to servers")
    return [_read_server(f"{path}: server {label!r}", label, one, environment) for label, one in servers.items()]


def _named(path: Path, servers: list[Any]) -> dict[str, Any]:
    """Names for tiny-agents' servers: what the command or the host is called, numbered where two are the same."""
    named: dict[str, Any] = {}
    for index, server in enumerate(servers):
        if not isinstance(server, dict):
            raise SetupError(f"{path}: servers.{index}: must be an object")
        # older files nest what newer ones have beside `type`
        server = {**server, **server["config"]} if isinstance(server.get("config"), dict) else server
        words = [server.get("command"), *(server.get("args") or []), server.get("url")]
        label = _label(next((str(word) for word in reversed(words) if isinstance(word, str) and word), "server"))
        number = sum(1 for name in named if name == label or name.startswith(f"{label}-"))
        named[f"{label}-{number + 1}" if number else label] = server
    return named


def _label(word: str) -> str:
    """A server's name from its last argument or URL."""
    word = urlsplit(word).hostname or Path(word).stem if "://" in word else Path(word).stem
    return re.sub(r"[^A-Za-z0-9]+", "-", word).strip("-")[:24] or "server"


def _read_server(where: str, label: str, raw: Any, environment: Mapping[str, str]) -> ServerConfig:
    if not _LABEL.fullmatch(label):
        raise SetupError(f"{where}: a name has letters, digits, _ and -, and at most 32 of them")
    if not isinstance(raw, dict):
        raise SetupError(f"{where}: must be an object")
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if value is None or key in _HARMLESS:
            continue
        if key not in _FIELDS:
            raise SetupError(f"{where}: unknown field {key!r}; there are {', '.join(_FIELDS)}")
        values[key] = _FIELDS[key](f"{where}: {key}", value)
    values["transport"] = _transport(where, values)
    values.pop("type", None)
    if values.pop("disabled", False):
        values["enabled"] = False
    secrets: set[str] = set()
    for key in ("env", "headers"):
        if key in values:
            values[key] = {name: _filled(where, key, one, environment, secrets) for name, one in values[key].items()}
    if "url" in values:
        values["url"] = _filled(where, "url", values["url"], environment, secrets)
        if urlsplit(values["url"]).scheme not in ("http", "https"):
            raise SetupError(f"{where}: url: must begin with http:// or https://")
    if "args" in values:
        values["args"] = tuple(_filled(where, "args", one, environment, secrets) for one in values["args"])
    secrets |= _written_out(values)
    return ServerConfig(label, **values, secrets=frozenset(one for one in secrets if len(one) >= _SHORTEST_SECRET))


_SHORTEST_SECRET = 6
"""Shorter values, `true` or `8080` say, are no secrets, and to blank them out would spoil every text."""


_SECRETIVE = re.compile(r"key|token|secret|passw|auth|credential|cookie", re.IGNORECASE)
"""What in files of this kind holds a secret, by its name."""
_PLAIN_HEADERS = frozenset({"accept", "accept-language", "content-type", "origin", "referer", "user-agent"})


def _written_out(values: Mapping[str, Any]) -> set[str]:
    """Secrets that stand in the file itself, as far as their names tell."""
    named = {name: value for name, value in values.get("env", {}).items() if _SECRETIVE.search(name)}
    headers = values.get("headers", {})
    named |= {name: value for name, value in headers.items() if name.lower() not in _PLAIN_HEADERS}
    found = {*named.values(), *(value.split()[-1] for value in named.values() if value.strip())}  # of `Bearer KEY`
    args = values.get("args", ())
    for arg, following in zip_longest(args, args[1:], fillvalue=""):
        flag, equals, value = arg.partition("=")
        if flag.startswith("-") and _SECRETIVE.search(flag):
            found.add(value if equals else following)
    url = urlsplit(values.get("url", ""))
    found.update(value for name, value in parse_qsl(url.query) if _SECRETIVE.search(name))
    return found | {url.password or ""}


def _transport(where: str, values: Mapping[str, Any]) -> str:
    named = values.get("type")
    if ("command" in values) == ("url" in values):
        raise SetupError(f"{where}: needs either a command or a url")
    found = TRANSPORTS[named] if named else "stdio" if "command" in values else "http"
    if (found == "stdio") != ("command" in values):
        raise SetupError(f"{where}: type: {named!r} goes with a {'command' if found == 'stdio' else 'url'}")
    if found == "stdio" and "headers" in values:
        raise SetupError(f"{where}: headers: go with a url")
    for key in ("args", "env", "cwd"):
        if found != "stdio" and key in values:
            raise SetupError(f"{where}: {key}: goes with a command")
    return found


def _filled(where: str, key: str, text: str, environment: Mapping[str, str], secrets: set[str]) -> str:
    """The text with `${env:NAME}` filled in; what is filled in counts as secret."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in environment:
            raise SetupError(f"{where}: {key}: the environment has no {name}")
        secrets.add(environment[name])
        return environment[name]

    return _VARIABLE.sub(fill, text)


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise SetupError(f"{where}: must be a text")
    return value


def _texts(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise SetupError(f"{where}: must be a list of texts")
    return tuple(value)


def _table(where: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise SetupError(f"{where}: must be an object from names to texts")
    return dict(value)


def _switch(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SetupError(f"{where}: must be true or false")
    return value


def _positive(kind: type[int] | type[float]) -> Callable[[str, Any], Any]:
    def read(where: str, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, kind | int) or not 0 < value < 1e9:
            raise SetupError(f"{where}: must be a {'whole ' * (kind is int)}number above 0")
        return kind(value)

    return read


def _kind(where: str, value: Any) -> str:
    if value not in TRANSPORTS:
        raise SetupError(f"{where}: must be one of {', '.join(TRANSPORTS)}")
    return str(value)


def _tools(where: str, value: Any) -> frozenset[str]:
    return frozenset(_texts(where, value))


def read_approval(where: str, value: Any) -> frozenset[str] | bool:
    """`always`, `never`, true, false, or a list of tools. Raises SetupError."""
    if value in ("always", "never"):
        return bool(value == "always")
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        return _tools(where, value)
    raise SetupError(f"{where}: must be 'always', 'never', true, false, or a list of tools")


_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "type": _kind, "command": _text, "args": _texts, "env": _table, "cwd": _text, "url": _text, "headers": _table,
    "enabled": _switch, "disabled": _switch, "default": _switch, "eager": _switch, "allowed_tools": _tools,
    "require_approval": read_approval, "timeout_s": _positive(float), "max_result_chars": _positive(int),
}  # fmt: skip
_HARMLESS = frozenset(
    {"name", "description", "config", "icon", "version", "id", "gallery", "autoApprove", "alwaysAllow"}
)
"""What other hosts keep in the same file; none of it changes what is started."""
