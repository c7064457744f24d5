"""tokenyard.toml, which with `[[worker]]` tables is also FLEET.toml: read and checked.

An unknown key or a wrong type is an error that names the file, the table and the key. Placing is placement.py's matter.

    [model.NAME]    source (Hub name or directory), revision, replicas, and the engine's keys
    [[worker]]      model (a NAME above, or a MODEL_SPEC), gpu = 0 or device = "cpu", and the engine's keys
    [front]         host, port, count, api_keys, cors_origins, tool_formats, store, mcp, ssl_certfile, ssl_keyfile,
                    max_requests_per_key
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import ModelSpec, local_directory
from tokenyard.scripts.placement import Model, WorkerRow, parse_model, write_spec

ENGINE_KEYS: Mapping[str, type] = {
    "dtype": str,
    "max_model_len": int,
    "kv_memory": str,
    "max_num_seqs": int,
    "max_num_batched_tokens": int,
    "threads": int,
    "eager": bool,
    "compile": bool,
    "speculate": str,
    "trust_remote_code": bool,
    "quantization": str,
}
"""`tokenyard worker` has the same as options."""
MODEL_KEYS: Mapping[str, type] = {"source": str, "revision": str, "replicas": int, **ENGINE_KEYS}
WORKER_KEYS: Mapping[str, type] = {"model": str, "gpu": int, "device": str, **ENGINE_KEYS}
FRONT_KEYS: Mapping[str, type] = {
    "host": str,
    "port": int,
    "count": int,
    "api_keys": list,
    "cors_origins": list,
    "tool_formats": list,
    "store": str,
    "mcp": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "max_requests_per_key": int,
}


@dataclass(slots=True)
class ConfigFile:
    """What one file says."""

    models: dict[str, Model] = field(default_factory=dict)
    """By NAME."""
    workers: list[WorkerRow] = field(default_factory=list)
    """Placed by hand; with none, the models are placed on the devices there are."""
    front: dict[str, Any] = field(default_factory=dict)
    """FRONT_KEYS, as far as they are given."""


def read_config(path: Path) -> ConfigFile:
    """Read and check one file. Raises SetupError."""
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: {error}") from error
    for name in tables:
        if name not in ("model", "worker", "front"):
            raise SetupError(f"{path}: unknown table [{name}]; there are [model.NAME], [[worker]] and [front]")
    config = ConfigFile()
    for name, table in _expect(path, "model", tables.get("model", {}), dict).items():
        config.models[name] = _read_model(path, name, table)
    for index, table in enumerate(_expect(path, "worker", tables.get("worker", []), list)):
        config.workers.append(_read_worker(path, f"[[worker]] {index + 1}", table, config.models))
    config.front = _check(path, "[front]", tables.get("front", {}), FRONT_KEYS)
    return config


def _read_model(path: Path, name: str, table: Any) -> Model:
    where = f"[model.{name}]"
    table = _check(path, where, table, MODEL_KEYS)
    if "source" not in table:
        raise SetupError(f"{path}: {where} lacks the key source")
    if table.get("replicas", 1) < 1:
        raise SetupError(f"{path}: {where} replicas: must be at least 1")
    source, revision = table["source"], table.get("revision")
    if not local_directory(source) and any(mark in source for mark in "@,"):
        raise SetupError(f"{path}: {where} source: {source!r} is no directory; a revision is a key of its own")
    if any(mark in name for mark in ",="):
        raise SetupError(f"{path}: {where}: a name cannot hold commas or equals signs")
    spec = write_spec(ModelSpec(source, revision, [name]))
    try:
        return Model(parse_model(spec).spec, table.get("replicas"), _engine(table))
    except SetupError as error:
        raise SetupError(f"{path}: {where}: {error}") from error


def _read_worker(path: Path, where: str, table: Any, models: dict[str, Model]) -> WorkerRow:
    table = _check(path, where, table, WORKER_KEYS)
    if "model" not in table:
        raise SetupError(f"{path}: {where} lacks the key model")
    try:
        model = models.get(table["model"]) or parse_model(table["model"])
    except SetupError as error:
        raise SetupError(f"{path}: {where} model: {error}") from error
    device = table.get("device", "cuda")
    if device not in ("cpu", "cuda"):
        raise SetupError(f"{path}: {where} device: choose cpu or cuda, not {device!r}")
    if (device == "cuda") != ("gpu" in table):
        raise SetupError(f"{path}: {where} needs either gpu = NUMBER or device = 'cpu'")
    return WorkerRow(model.spec, device, table.get("gpu"), model.engine | _engine(table))


def _engine(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key in ENGINE_KEYS}


def _check(path: Path, where: str, table: Any, keys: Mapping[str, type]) -> dict[str, Any]:
    """The table, each of its keys known and of its type."""
    _expect(path, where, table, dict)
    for key, value in table.items():
        if key not in keys:
            raise SetupError(f"{path}: {where} has an unknown key {key!r}; the keys are {', '.join(keys)}")
        _expect(path, f"{where} {key}", value, keys[key])
    return dict(table)


def _expect(path: Path, where: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        names = {str: "a string", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}
        raise SetupError(f"{path}: {where}: {names[kind]} belongs here, not {value!r}")
    return value
