"""A whole pool as one plan: the command line's wishes laid over tokenyard.toml, and each process's arguments."""

import re
import shlex
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import DEMO
from tokenyard.http.formats.names import read_choices
from tokenyard.http.mcp.config import read_servers
from tokenyard.scripts.config_file import ConfigFile, read_config
from tokenyard.scripts.placement import (
    Model,
    WorkerRow,
    choose_devices,
    parse_model,
    place,
    refuse_clashes,
    share_cores,
)

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")
"""As browsers send it (RFC 6454): one with a slash at its end would never match."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for; None and empty leave it to the file, then to the default."""

    specs: Sequence[str] = ()
    default: str | None = DEMO
    """What is served where neither the command line nor the file names a model; None: nothing."""
    num_workers: int | None = None
    gpus: Sequence[int] | None = None
    device: str = "auto"
    engine: dict[str, Any] = field(default_factory=dict)
    host: str | None = None
    port: int | None = None
    num_fronts: int | None = None
    api_keys: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    tool_formats: Sequence[str] = ()
    store: str | None = None
    """Where fronts keep responses: a file, or `off`."""
    mcp: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    max_requests_per_key: int | None = None
    drain_timeout_s: float = 30.0
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a supervisor keeps alive."""

    workers: list[WorkerRow]
    models: dict[str, Model]
    """Of the file, by name: what a Spawn may ask for besides a MODEL_SPEC."""
    devices: list[int | None]
    """GPUs of this box; one None for the CPU."""
    host: str
    port: int
    num_fronts: int
    api_keys: list[str]
    cors_origins: list[str]
    tool_formats: list[str]
    """Web pages of which origins browsers let call."""
    store: str
    """As FrontOptions.store."""
    mcp: Path | None
    """mcp.json, if there are MCP servers."""
    tls: list[Path]
    """Certificate chain and, if it is in a file of its own, private key; empty: http."""
    max_requests_per_key: int | None
    drain_timeout_s: float
    """How long running streams may go on after SIGTERM."""
    log_level: str

    @property
    def places(self) -> list[str]:
        """This box's devices, as WorkerRow.place names them."""
        return ["cpu" if gpu is None else f"cuda:{gpu}" for gpu in self.devices]

    def place_one(self, model: str, device: str, workers: Sequence[WorkerRow]) -> WorkerRow:
        """A place for one more of `model` beside `workers`: on the device asked for, else the least used one.

        Raises SetupError.
        """
        if device in ("", "auto"):
            used = [row.place for row in workers]
            device = min(self.places, key=used.count)
        if device not in self.places:
            raise SetupError(f"there is no device {device!r} here; there are {', '.join(self.places)}")
        found = self.models.get(model) or parse_model(model)
        (row,) = place([found], [self.devices[self.places.index(device)]], 1)
        refuse_clashes([*workers, row])
        return share_cores([*workers, row])[-1]

    def broker_arguments(self, run_dir: Path) -> list[str]:
        return ["broker", *self._common(run_dir)]

    def front_arguments(self, run_dir: Path, fd: int, index: int) -> list[str]:
        drain = ["--drain-timeout", str(self.drain_timeout_s)]
        store = ["--store", self.store] if self.store else []
        mcp = ["--mcp", str(self.mcp)] if self.mcp else []
        cors = [part for origin in self.cors_origins for part in ("--cors-origin", origin)]
        formats = [part for one in self.tool_formats for part in ("--tool-format", one)]
        names = ("--ssl-certfile", "--ssl-keyfile")
        tls = [part for name, path in zip(names, self.tls, strict=False) for part in (name, str(path))]
        limit = ["--max-requests-per-key", str(self.max_requests_per_key)] if self.max_requests_per_key else []
        options = [*cors, *formats, *store, *mcp, *tls, *limit, *drain]
        return ["front", "--fd", str(fd), "--index", str(index), *options, *self._common(run_dir)]

    def worker_arguments(self, run_dir: Path, row: WorkerRow, inc: bytes) -> list[str]:
        return [*row.arguments(), "--inc", inc.hex(), *self._common(run_dir)]

    def front_environment(self) -> dict[str, str]:
        """Keys go this way: arguments can be read by every user of the machine."""
        return {"TOKENYARD_API_KEY": " ".join(self.api_keys)} if self.api_keys else {}

    def _common(self, run_dir: Path) -> list[str]:
        return ["--run-dir", str(run_dir), "--log-level", self.log_level]


def make_plan(wishes: Wishes, path: Path | None) -> Plan:
    """Lay the wishes over the file. Raises SetupError."""
    config = read_config(path) if path else ConfigFile()
    front = config.front
    api_keys = list(wishes.api_keys) or front.get("api_keys", [])
    if any(not isinstance(key, str) or not key or key.split() != [key] for key in api_keys):
        raise SetupError("an API key must be a word without spaces")
    cors_origins = list(wishes.cors_origins) or front.get("cors_origins", ["*"])
    for origin in cors_origins:
        if not isinstance(origin, str) or not ORIGIN.fullmatch(origin):
            raise SetupError(f"an origin is SCHEME://HOST[:PORT] without a path, or *; not {origin!r}")
    tool_formats = list(wishes.tool_formats) or front.get("tool_formats", [])
    read_choices(tool_formats)
    devices = choose_devices(wishes.device, wishes.gpus)
    workers = _plan_workers(wishes, config, devices)
    refuse_clashes(workers)
    host = wishes.host or front.get("host", DEFAULT_HOST)
    num_fronts = wishes.num_fronts or front.get("count", 1)
    mcp = wishes.mcp or (Path(front["mcp"]) if "mcp" in front else None)
    if mcp is not None:
        _check_mcp(mcp, host, api_keys, num_fronts)
    max_requests = wishes.max_requests_per_key or front.get("max_requests_per_key")
    if max_requests and not api_keys:
        raise SetupError("--max-requests-per-key counts the requests of each key: give an --api-key")
    certfile = wishes.ssl_certfile or front.get("ssl_certfile")
    return Plan(
        workers=share_cores(workers),
        models=config.models,
        devices=devices,
        host=host,
        port=front.get("port", DEFAULT_PORT) if wishes.port is None else wishes.port,
        num_fronts=num_fronts,
        api_keys=api_keys,
        cors_origins=cors_origins,
        tool_formats=tool_formats,
        store=_store(wishes.store or front.get("store", "")),
        mcp=mcp.absolute() if mcp else None,
        tls=read_tls(certfile, wishes.ssl_keyfile or front.get("ssl_keyfile")),
        max_requests_per_key=max_requests,
        drain_timeout_s=wishes.drain_timeout_s,
        log_level=wishes.log_level,
    )


def _check_mcp(path: Path, host: str, api_keys: Sequence[str], num_fronts: int) -> None:
    """Raise SetupError for what must not be, and for mistakes in the file, before anything is started."""
    servers = read_servers(path)
    if not api_keys and not is_loopback(host):
        raise SetupError(f"--mcp on {host} lets whoever reaches it run tools here: give an --api-key")
    stdio = [server.label for server in servers if server.enabled and server.transport == "stdio"]
    if num_fronts > 1 and stdio:
        words = f"the stdio servers in {path} ({', '.join(stdio)}) would be started once for each front"
        raise SetupError(f"{words}: serve with one front, or give them a url")


def read_tls(certfile: Path | str | None, keyfile: Path | str | None) -> list[Path]:
    """The files that https needs, as absolute paths; raises SetupError where they do not serve."""
    if certfile is None:
        if keyfile is not None:
            raise SetupError("--ssl-keyfile needs --ssl-certfile")
        return []
    files = [Path(one).absolute() for one in (certfile, keyfile) if one is not None]
    for path in files:
        if not path.is_file():
            raise SetupError(f"there is no file {path}")
    try:
        # A key with a passphrase would ask for it on the terminal of every front.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files[0], files[-1], lambda: "")
    except OSError as error:
        raise SetupError(f"{' and '.join(map(str, files))} are no certificate and key for https: {error}") from error
    return files


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name that is none counts by what it is called."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _store(given: str) -> str:
    """Absolute: a front may run elsewhere."""
    return given if given in ("", "off") else str(Path(given).absolute())


def _plan_workers(wishes: Wishes, config: ConfigFile, devices: Sequence[int | None]) -> list[WorkerRow]:
    """Models of the command line, else the file's workers, else the file's models, else the default."""
    if config.workers and not wishes.specs:
        if wishes.num_workers or wishes.gpus or wishes.device != "auto":
            raise SetupError("--workers, --gpus and --device do not go with [[worker]] tables, which place each worker")
        return [replace(row, engine=row.engine | wishes.engine) for row in config.workers]
    models = [parse_model(spec) for spec in wishes.specs] or list(config.models.values())
    if not models and wishes.default:
        models = [Model(wishes.default)]
    return place([replace(model, engine=model.engine | wishes.engine) for model in models], devices, wishes.num_workers)


def fleet_commands(path: Path, run_dir: Path) -> list[tuple[str, str]]:
    """(name, arguments quoted for a shell) of each process that scripts/fleet.sh starts.

    The workers are the agent's: it alone spawns and reaps. Fronts that share no socket listen on ports in a row.
    """
    plan = make_plan(Wishes(), path)
    shared = ["--config", str(path), "--run-dir", str(run_dir)]
    fronts = [
        (f"front-{index}", ["front", "--port", str(plan.port + index), *shared]) for index in range(plan.num_fronts)
    ]
    commands = [("broker", plan.broker_arguments(run_dir)), *fronts, ("agent", ["agent", *shared])]
    return [(name, shlex.join(arguments)) for name, arguments in commands]
