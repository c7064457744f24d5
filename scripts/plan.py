"""A whole pool as one plan: the command line's wishes laid over tokenyard.toml, and each process's arguments."""

import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenyard.broker.endpoints import is_loopback
from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import DEMO, format_spec, parse_spec
from tokenyard.broker.wire import Adapter
from tokenyard.http.catalog.adapters import AdapterPolicy
from tokenyard.http.catalog.policy import CACHED, Policy, read_allow
from tokenyard.http.formats.names import read_choices
from tokenyard.http.mcp.config import read_servers
from tokenyard.scripts.config_file import ConfigFile, read_config
from tokenyard.scripts.loras import (
    LoraSpec,
    find_bases,
    parse_lora,
    read_lora_policy,
    with_room,
)
from tokenyard.scripts.on_demand import OnDemand, Settled, has_cached_models
from tokenyard.scripts.option_checks import as_arguments, check_api_keys, check_origins, read_tls
from tokenyard.scripts.placement import (
    Model,
    WorkerRow,
    choose_devices,
    parse_model,
    place,
    refuse_clashes,
    share_cores,
)
from tokenyard.scripts.reach import Reach

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000


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
    allow_models: Sequence[str] = ()
    models_dir: Path | None = None
    loras: Sequence[str] = ()
    """Each a --lora."""
    lora_dir: Path | None = None
    allow_loras: Sequence[str] = ()
    store: str | None = None
    """Where fronts keep responses: a file, or `off`."""
    mcp: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    max_requests_per_key: int | None = None
    on_demand: OnDemand = field(default_factory=OnDemand)
    reach: Reach = field(default_factory=Reach)
    drain_timeout_s: float = 30.0
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a supervisor keeps alive."""

    workers: list[WorkerRow]
    models: dict[str, Model]
    """Of the file, by name: what a Spawn may ask for besides a MODEL_SPEC."""
    engine: dict[str, Any]
    """Of the command line, for every model."""
    devices: list[int | None]
    """GPUs of this box; one None for the CPU."""
    host: str
    port: int
    num_fronts: int
    api_keys: list[str]
    cors_origins: list[str]
    """Web pages of which origins browsers let call."""
    tool_formats: list[str]
    policy: Policy
    """Which models requests may ask for."""
    loras: list[Adapter]
    """Those that are served from the start."""
    lora_policy: AdapterPolicy
    store: str
    """As FrontOptions.store."""
    mcp: Path | None
    """mcp.json, if there are MCP servers."""
    tls: list[Path]
    """Certificate chain and, if it is in a file of its own, private key; empty: http."""
    max_requests_per_key: int | None
    loading: Settled
    """Of models on demand."""
    reach: Reach
    """Beyond this box."""
    drain_timeout_s: float
    """How long running streams may go on after SIGTERM."""
    log_level: str

    @property
    def places(self) -> list[str]:
        """This box's devices, as WorkerRow.place names them."""
        return ["cpu" if gpu is None else f"cuda:{gpu}" for gpu in self.devices]

    @property
    def on_demand(self) -> bool:
        """Whether requests may have models loaded."""
        return bool(self.policy.allow or self.policy.models_dir)

    @property
    def standby(self) -> bool:
        """Whether processes stand by; not for an empty cache, which is what a newcomer's is."""
        may_load = self.policy.models_dir or any(one != CACHED for one in self.policy.allow) or has_cached_models()
        return self.on_demand and self.loading.standby and bool(may_load)

    @property
    def slots(self) -> list[int]:
        """How many models each device may hold: what is told, and never fewer than are placed there at the start."""
        placed = [row.place for row in self.workers]
        return [max(self.loading.gpu_share, placed.count(place)) for place in self.places]

    def place_one(self, model: str, device: str, workers: Sequence[WorkerRow]) -> WorkerRow:
        """A place for one more of `model` beside `workers`: on the device asked for, else the least used one.

        Raises SetupError.
        """
        if device in ("", "auto"):
            used = [row.place for row in workers]
            device = min(self.places, key=used.count)
        if device not in self.places:
            raise SetupError(f"there is no device {device!r} here; there are {', '.join(self.places)}")
        found = self.models.get(model) or _with_defaults(parse_model(model), self.engine)
        (row,) = place([found], [self.devices[self.places.index(device)]], 1)
        refuse_clashes([*workers, row])
        return share_cores([*workers, row])[-1]

    def broker_arguments(self, run_dir: Path) -> list[str]:
        loading = self.loading
        options = as_arguments(
            evict=loading.evict,
            model_timeout=loading.model_timeout_s,
            load_timeout=loading.load_timeout_s,
            lora=self._lora_texts(),
        )
        return ["broker", *self.reach.broker_arguments(), *options, *self._common(run_dir)]

    def front_arguments(self, run_dir: Path, fd: int, index: int) -> list[str]:
        options = as_arguments(
            fd=fd,
            index=index,
            allow_models=",".join(self.policy.allow) or "none",
            models_dir=self.policy.models_dir,
            named=self.policy.named,
            trust_remote_code=self.policy.trust_remote_code or None,
            dtype=self.policy.dtype,
            quantization=self.policy.quantization,
            lora_dir=self.lora_policy.directory,
            allow_loras=",".join(self.lora_policy.allow),
            lora=self._lora_texts(),
            cors_origin=self.cors_origins,
            tool_format=self.tool_formats,
            store=self.store,
            mcp=self.mcp,
            ssl_certfile=self.tls[:1],
            ssl_keyfile=self.tls[1:],
            max_requests_per_key=self.max_requests_per_key,
            load_timeout=self.loading.load_timeout_s,
            drain_timeout=self.drain_timeout_s,
        )
        return ["front", *self.reach.front_arguments(), *options, *self._common(run_dir)]

    def worker_arguments(self, run_dir: Path, row: WorkerRow) -> list[str]:
        num_sharers = self.slots[self.places.index(row.place)] if row.place in self.places else 1
        options = as_arguments(share=num_sharers if num_sharers > 1 and row.gpu is not None else None)
        return [*row.arguments(), *options, *self.reach.worker_arguments(), *self._common(run_dir)]

    def front_environment(self) -> dict[str, str]:
        """Keys go this way: arguments can be read by every user of the machine."""
        return {"TOKENYARD_API_KEY": " ".join(self.api_keys)} if self.api_keys else {}

    def _lora_texts(self) -> list[str]:
        return [str(LoraSpec(one.name, one.source, one.base)) for one in self.loras]

    def _common(self, run_dir: Path) -> list[str]:
        return as_arguments(run_dir=run_dir, log_level=self.log_level)


def make_plan(wishes: Wishes, path: Path | None) -> Plan:
    """Lay the wishes over the file. Raises SetupError."""
    config = read_config(path) if path else ConfigFile()
    _check_wishes(wishes)
    front = config.front
    models = {name: replace(model, engine=model.engine | wishes.engine) for name, model in config.models.items()}
    devices = choose_devices(wishes.device, wishes.gpus)
    workers = _plan_workers(wishes, config, models, devices)
    refuse_clashes(workers)
    opened = (wishes.allow_models, wishes.models_dir, front.get("allow_models"), front.get("models_dir"))
    others = any(opened) and "max_loras" in wishes.engine
    loras = find_bases(_lora_specs(wishes, config), [*workers, *models.values()], others)
    workers = with_room(workers, loras)
    models = {name: with_room([model], loras)[0] for name, model in models.items()}
    host = wishes.host or front.get("host", DEFAULT_HOST)
    api_keys = list(wishes.api_keys) or front.get("api_keys", [])
    num_fronts = wishes.num_fronts or front.get("count", 1)
    mcp = wishes.mcp or config.front_path("mcp")
    if mcp is not None:
        with _blamed(config, "mcp", wishes.mcp):
            _check_mcp(mcp, host, api_keys, num_fronts)
    max_requests = wishes.max_requests_per_key or front.get("max_requests_per_key")
    if max_requests and not api_keys:
        with _blamed(config, "max_requests_per_key", wishes.max_requests_per_key):
            raise SetupError("--max-requests-per-key counts the requests of each key: give an --api-key")
    certfile = wishes.ssl_certfile or front.get("ssl_certfile")
    keyfile = wishes.ssl_keyfile or front.get("ssl_keyfile")
    with _blamed(config, "ssl_certfile" if certfile else "ssl_keyfile", wishes.ssl_certfile or wishes.ssl_keyfile):
        tls = read_tls(certfile, keyfile)
    return Plan(
        workers=share_cores(workers),
        models=models,
        engine=wishes.engine,
        devices=devices,
        host=host,
        port=front.get("port", DEFAULT_PORT) if wishes.port is None else wishes.port,
        num_fronts=num_fronts,
        api_keys=api_keys,
        cors_origins=list(wishes.cors_origins) or front.get("cors_origins", ["*"]),
        tool_formats=list(wishes.tool_formats) or front.get("tool_formats", []),
        policy=_policy(wishes, config, [*workers, *models.values()], host),
        loras=loras,
        lora_policy=_lora_policy(wishes, config, workers, not api_keys and not is_loopback(host)),
        store=_store(wishes.store or front.get("store", "")),
        mcp=mcp.absolute() if mcp else None,
        tls=tls,
        max_requests_per_key=max_requests,
        loading=wishes.on_demand.over(config.pool),
        reach=_reach(wishes, config),
        drain_timeout_s=wishes.drain_timeout_s,
        log_level=wishes.log_level,
    )


def _check_wishes(wishes: Wishes) -> None:
    """Raise SetupError for what the command line cannot ask for; the file was checked as it was read."""
    check_api_keys(wishes.api_keys)
    check_origins(wishes.cors_origins)
    read_choices(wishes.tool_formats)
    for allow in (wishes.allow_models, wishes.allow_loras):
        if allow:
            read_allow(allow)


def _reach(wishes: Wishes, config: ConfigFile) -> Reach:
    """Mistakes name the file's table, unless the command line has made them alone."""
    with config.at("pool") if config.pool else nullcontext():
        return wishes.reach.over(config.pool)


def _blamed(config: ConfigFile, key: str, wish: object) -> AbstractContextManager[None]:
    """Errors within name the file's key, unless the command line has put a wish in its place."""
    return config.at("front", key) if key in config.front and not wish else nullcontext()


def _with_defaults(model: Model, engine: dict[str, Any]) -> Model:
    """A model of a MODEL_SPEC, which goes before what is wished for all."""
    return replace(model, engine=engine | model.engine)


def _policy(wishes: Wishes, config: ConfigFile, models: Sequence[WorkerRow | Model], host: str) -> Policy:
    """What was named is allowed; where nothing was and only this machine can ask, so is what was downloaded before."""
    named: dict[str, str] = {}
    for model in models:
        spec = parse_spec(model.spec)._replace(engine=model.engine)
        # Others are another worker of the same, or a table that the command line hides.
        if named.keys().isdisjoint(spec.called):
            named |= dict.fromkeys(spec.called, format_spec(spec))
    given = list(wishes.allow_models) or config.front.get("allow_models", [])
    if not given and wishes.default and not (wishes.specs or config.models or config.workers) and is_loopback(host):
        given = [CACHED]
    directory = wishes.models_dir or config.front_path("models_dir")
    if directory is not None and not directory.is_dir():
        with _blamed(config, "models_dir", wishes.models_dir):
            raise SetupError(f"--models-dir {directory}: there is no such directory")
    trusts = any(engine.get("trust_remote_code") for engine in (wishes.engine, *(model.engine for model in models)))
    allow = read_allow(given) if given else ()
    widths = {key: str(wishes.engine[key]) for key in ("dtype", "quantization") if wishes.engine.get(key)}
    known = tuple(dict.fromkeys(named.values()))
    return Policy(known, allow, directory.absolute() if directory else None, trusts, **widths)


def _lora_specs(wishes: Wishes, config: ConfigFile) -> list[LoraSpec]:
    """Of the command line; of the file's, those that it has not named anew."""
    given = [parse_lora(text) for text in wishes.loras]
    names = {spec.name for spec in given}
    return [*given, *(spec for spec in config.loras if spec.name not in names)]


def _lora_policy(wishes: Wishes, config: ConfigFile, workers: Sequence[WorkerRow], is_open: bool) -> AdapterPolicy:
    front = config.front
    directory = wishes.lora_dir or config.front_path("lora_dir")
    key = "lora_dir" if "lora_dir" in front else "allow_loras"
    with _blamed(config, key, wishes.lora_dir or wishes.allow_loras):
        return read_lora_policy(directory, list(wishes.allow_loras) or front.get("allow_loras", []), workers, is_open)


def _check_mcp(path: Path, host: str, api_keys: Sequence[str], num_fronts: int) -> None:
    """Raise SetupError for what must not be, and for mistakes in the file, before anything is started."""
    servers = read_servers(path)
    if not api_keys and not is_loopback(host):
        raise SetupError(f"--mcp on {host} lets whoever reaches it run tools here: give an --api-key")
    stdio = [server.label for server in servers if server.enabled and server.transport == "stdio"]
    if num_fronts > 1 and stdio:
        words = f"the stdio servers in {path} ({', '.join(stdio)}) would be started once for each front"
        raise SetupError(f"{words}: serve with one front, or give them a url")


def _store(given: str) -> str:
    """Absolute: a front may run elsewhere."""
    return given if given in ("", "off") else str(Path(given).absolute())


def _plan_workers(
    wishes: Wishes, config: ConfigFile, tables: dict[str, Model], devices: Sequence[int | None]
) -> list[WorkerRow]:
    """Models of the command line, else the file's workers, else the file's models, else the default."""
    if config.workers and not wishes.specs:
        if wishes.num_workers or wishes.gpus or wishes.device != "auto":
            raise SetupError("--workers, --gpus and --device do not go with [[worker]] tables, which place each worker")
        return [replace(row, engine=row.engine | wishes.engine) for row in config.workers]
    models = [_with_defaults(parse_model(spec), wishes.engine) for spec in wishes.specs] or list(tables.values())
    if not models and wishes.default:
        models = [_with_defaults(parse_model(wishes.default), wishes.engine)]
    return place(models, devices, wishes.num_workers)


def fleet_commands(path: Path, run_dir: Path) -> list[tuple[str, str]]:
    """(name, arguments quoted for a shell) of each process that scripts/fleet.sh starts.

    The workers are the agent's: it alone spawns and reaps. Fronts that share no socket listen on ports in a row; where
    the broker is elsewhere, they run only if the file has a [front].
    """
    plan = make_plan(Wishes(), path)
    shared = ["--config", str(path), "--run-dir", str(run_dir)]
    is_whole = plan.reach.broker is None
    brokers = [("broker", plan.broker_arguments(run_dir))] if is_whole else []
    num_fronts = plan.num_fronts if is_whole or read_config(path).front else 0
    fronts = [(f"front-{index}", ["front", "--port", str(plan.port + index), *shared]) for index in range(num_fronts)]
    commands = [*brokers, *fronts, ("agent", ["agent", *shared])]
    return [(name, shlex.join(arguments)) for name, arguments in commands]
