"""tokenyard.toml, which with `[[worker]]` tables is also FLEET.toml: read and checked.

Every mistake is an error that names the file, the line, the table and the key. Placing is placement.py's matter.

    [model.NAME]    source (Hub name, directory or GGUF file), revision, and the keys of a MODEL_SPEC
    [[worker]]      model (a NAME above, or a MODEL_SPEC), gpu = 0 or device = "cpu", and the engine's keys
    [lora.NAME]     source (Hub name or directory) and base (a model's name) of a LoRA adapter
    [front]         host, port, count, api_keys, cors_origins, tool_formats, allow_models, models_dir, lora_dir,
                    allow_loras, store, mcp, ssl_certfile, ssl_keyfile, max_requests_per_key
    [pool]          gpu_share, evict, model_timeout, load_timeout, standby; for a pool of several boxes broker, bind,
                    workers_bind, advertise, keys
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import DEMO, ModelSpec, SpecError, check_spec, is_local, parse_spec
from tokenyard.scripts.loras import LoraSpec, check_lora
from tokenyard.scripts.option_checks import (
    ENGINE_CHECKS,
    FRONT_CHECKS,
    LORA_CHECKS,
    POOL_CHECKS,
    STRING,
    Check,
    typed,
    whole,
)
from tokenyard.scripts.placement import Model, WorkerRow, model_of, parse_model, place, refuse_clashes
from tokenyard.scripts.reach import REACH_CHECKS
from tokenyard.scripts.toml_lines import Keys, line_of, read_toml


def _check_names(value: Any) -> None:
    if not all(isinstance(name, str) for name in (value if isinstance(value, list) else [value])):
        raise SetupError(f"a string or a list of strings belongs here, not {value!r}")


MODEL_CHECKS: Mapping[str, Check] = {
    "source": STRING,
    "revision": STRING,
    "name": _check_names,
    "replicas": typed(int),
    "file": STRING,
    "pin": typed(bool),
    **ENGINE_CHECKS,
}
"""Keys of a MODEL_SPEC; `name`: what requests may call it besides its table's name. check_spec asks the rest."""
WORKER_CHECKS: Mapping[str, Check] = {"model": STRING, "gpu": whole(0), "device": STRING, **ENGINE_CHECKS}


@dataclass(slots=True)
class ConfigFile:
    """What one file says."""

    path: Path | None = None
    text: str = ""
    models: dict[str, Model] = field(default_factory=dict)
    """By NAME."""
    workers: list[WorkerRow] = field(default_factory=list)
    """Placed by hand; with none, the models are placed on the devices there are."""
    loras: list[LoraSpec] = field(default_factory=list)
    front: dict[str, Any] = field(default_factory=dict)
    """Keys of FRONT_CHECKS, as far as they are given."""
    pool: dict[str, Any] = field(default_factory=dict)
    """Keys of POOL_CHECKS and REACH_CHECKS, as far as they are given."""

    def front_path(self, key: str) -> Path | None:
        """Of [front], a file or a directory."""
        return Path(self.front[key]) if key in self.front else None

    @contextmanager
    def at(self, *keys: str | int) -> Iterator[None]:
        """Whatever SetupError is raised within says where in the file its cause stands."""
        try:
            yield
        except SetupError as error:
            raise SetupError(f"{self.path} line {line_of(self.text, keys)}: {_where(keys)}: {error}") from error


def _where(keys: Keys) -> str:
    """`[model.x] source` or `[[worker]] 1 gpu`."""
    match keys:
        case ["model", name, *rest]:
            table = f"[model.{name}]"
        case ["lora", name, *rest]:
            table = f"[lora.{name}]"
        case ["worker", int(index), *rest]:
            table = f"[[worker]] {index + 1}"
        case _:
            table, rest = f"[{keys[0]}]", list(keys[1:])
    return " ".join([table, *map(str, rest)])


def read_config(path: Path) -> ConfigFile:
    """Read and check one file. Raises SetupError."""
    tables, text = read_toml(path)
    config = ConfigFile(path, text)
    for name in tables:
        with config.at(name):
            if name not in ("model", "worker", "lora", "front", "pool"):
                raise SetupError("unknown table; there are [model.NAME], [[worker]], [lora.NAME], [front] and [pool]")
            typed(list if name == "worker" else dict)(tables[name])
    for name, table in tables.get("model", {}).items():
        config.models[name] = _read_model(config, name, table)
    for index, table in enumerate(tables.get("worker", [])):
        config.workers.append(_read_worker(config, index, table))
    for name, table in tables.get("lora", {}).items():
        table = _check(config, ("lora", name), table, LORA_CHECKS)
        with config.at("lora", name):
            config.loras.append(check_lora(LoraSpec(name, table.get("source", ""), table.get("base", ""))))
    config.front = _check(config, ["front"], tables.get("front", {}), FRONT_CHECKS)
    config.pool = _check(config, ["pool"], tables.get("pool", {}), {**POOL_CHECKS, **REACH_CHECKS})
    _refuse_clashes(config)
    return config


def _read_model(config: ConfigFile, name: str, table: Any) -> Model:
    where = ("model", name)
    table = _check(config, where, table, MODEL_CHECKS)
    with config.at(*where):
        if "source" not in table:
            raise SetupError("the key source is missing")
        if any(mark in name for mark in ",="):
            raise SetupError("a name cannot hold commas or equals signs")
    more = table.get("name", [])
    own = {key: table[key] for key in ("replicas", "file", "pin") if key in table}
    names = [name, *([more] if isinstance(more, str) else more)]
    spec = ModelSpec(table["source"], table.get("revision"), names, **own, engine=_engine(table))
    try:
        check_spec(spec)
    except SpecError as error:
        with config.at(*where, *([error.key] if error.key in table else [])):
            raise SetupError(error.words) from error
    return model_of(spec)


def _read_worker(config: ConfigFile, index: int, table: Any) -> WorkerRow:
    where = ("worker", index)
    table = _check(config, where, table, WORKER_CHECKS)
    with config.at(*where):
        if "model" not in table:
            raise SetupError("the key model is missing")
    with config.at(*where, "model"):
        model = _find_model(config, table["model"])
    device = table.get("device", "cuda")
    with config.at(*where, "device" if "device" in table else "gpu"):
        if device not in ("cpu", "cuda"):
            raise SetupError(f"choose cpu or cuda, not {device!r}")
        if (device == "cuda") != ("gpu" in table):
            raise SetupError("either gpu = NUMBER or device = 'cpu' is needed")
    return WorkerRow(model.spec, device, table.get("gpu"), model.engine | _engine(table))


def _find_model(config: ConfigFile, name: str) -> Model:
    """A model of the file, or the one that a MODEL_SPEC tells."""
    model = config.models.get(name) or parse_model(name)
    source = parse_spec(model.spec).source
    if name not in config.models and "/" not in source and source != DEMO and not is_local(source):
        there = f"there are {', '.join(config.models)}" if config.models else "there is none"
        raise SetupError(f"no [model.{name}] is here ({there}), no such directory, and Hub names are OWNER/NAME")
    if model.replicas is not None:
        raise SetupError(f"the model has replicas = {model.replicas}, but each [[worker]] is one: leave replicas out")
    return model


def _refuse_clashes(config: ConfigFile) -> None:
    """Raise SetupError where one name would stand for two models."""
    rows: list[WorkerRow] = []
    for name, model in config.models.items():
        rows += place([model], [None], 1)
        with config.at("model", name):
            refuse_clashes(rows)
    for index in range(len(config.workers)):
        with config.at("worker", index):
            refuse_clashes(config.workers[: index + 1])


def _engine(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key in ENGINE_CHECKS}


def _check(config: ConfigFile, where: Keys, table: Any, checks: Mapping[str, Check]) -> dict[str, Any]:
    """The table, each of its keys known and with a value that fits."""
    with config.at(*where):
        typed(dict)(table)
    for key, value in table.items():
        with config.at(*where, key):
            if key not in checks:
                raise SetupError(f"unknown key; the keys are {', '.join(checks)}")
            checks[key](value)
    return dict(table)
