"""LoRA adapters that a pool serves from its start: as the command line and tokenyard.toml name them.

    NAME,source=PATH_OR_HUB_ID,base=MODEL

The base may be left out where one model is served. The broker is given them; it has the workers load them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import local_directory, parse_spec
from tokenyard.broker.wire import Adapter
from tokenyard.http.catalog.adapters import CONFIG, AdapterPolicy
from tokenyard.http.catalog.policy import read_allow
from tokenyard.scripts.placement import Model, WorkerRow

Row = TypeVar("Row", Model, WorkerRow)


class LoraSpec(NamedTuple):
    """One --lora, or one table."""

    name: str
    source: str
    base: str = ""
    """Empty: the only model."""

    def __str__(self) -> str:
        return ",".join([self.name, f"source={self.source}", *([f"base={self.base}"] if self.base else [])])


def parse_lora(text: str) -> LoraSpec:
    """Read one --lora. Raises SetupError naming the key at fault. A source may hold commas."""
    name, *parts = text.split(",")
    given: dict[str, str] = {}
    last = ""
    for part in parts:
        key, equals, value = part.partition("=")
        if equals and key in ("source", "base"):
            if key in given:
                raise SetupError(f"--lora {text!r}: the key {key!r} is given twice")
            given[key], last = value, key
        elif last == "source":
            given[last] += f",{part}"
        else:
            raise SetupError(f"--lora {text!r}: unknown key {key!r}; it reads NAME,source=PATH_OR_HUB_ID,base=MODEL")
    try:
        return check_lora(LoraSpec(name, given.get("source", ""), given.get("base", "")))
    except SetupError as error:
        raise SetupError(f"--lora {text!r}: {error}") from error


def check_lora(spec: LoraSpec) -> LoraSpec:
    """With its directory, if it is one, in full. Raises SetupError for what no worker could load."""
    if not spec.name or any(mark in spec.name for mark in ",="):
        raise SetupError("a name is needed that holds no comma and no equals sign")
    if not spec.source:
        raise SetupError("the key source is missing")
    directory = local_directory(spec.source)
    if directory is not None and not (directory / CONFIG).is_file():
        raise SetupError(f"source: {directory} has no {CONFIG}")
    if directory is None and (spec.source[0] in "./~" or Path(spec.source).is_absolute()):
        raise SetupError(f"source: there is no directory {spec.source}")
    return spec._replace(source=str(directory or spec.source))


def find_bases(specs: Sequence[LoraSpec], models: Sequence[Model | WorkerRow], on_demand: bool) -> list[Adapter]:
    """The adapters, with their bases' ids. `on_demand`: others than these models may have them. Raises SetupError."""
    called = {name: parse_spec(model.spec).called[0] for model in models for name in _names(model)}
    ids = sorted(set(called.values()))
    there = f"there are {', '.join(ids)}" if ids else "there is none"
    found: dict[str, Adapter] = {}
    for spec in specs:
        base = spec.base or (ids[0] if len(ids) == 1 else "")
        if not base:
            raise SetupError(f"adapter {spec.name}: the key base is missing, and not one model is named: {there}")
        if base not in called and not on_demand:
            raise SetupError(f"adapter {spec.name}: no model {base!r} with room for adapters is named: {there}")
        if spec.name in called:
            raise SetupError(f"adapter {spec.name}: this is the name of a model")
        if spec.name in found:
            raise SetupError(f"adapter {spec.name} is given twice")
        found[spec.name] = Adapter(spec.name, called.get(base, base), spec.source)
    return list(found.values())


def with_room(rows: Iterable[Row], adapters: Sequence[Adapter]) -> list[Row]:
    """The same models, each ready for as many adapters as it is to have, unless it says for how many."""
    made = []
    for row in rows:
        own_id = parse_spec(row.spec).called[0]
        count = sum(adapter.base == own_id for adapter in adapters)
        made.append(replace(row, engine={"max_loras": count} | row.engine) if count else row)
    return made


def read_lora_policy(
    directory: Path | None, allow: Sequence[str], rows: Sequence[WorkerRow], is_open: bool
) -> AdapterPolicy:
    """What requests may have loaded. `is_open`: without a key, for more than this machine. Raises SetupError."""
    if directory is None and not allow:
        return AdapterPolicy()
    if is_open:
        raise SetupError("--lora-dir and --allow-loras let whoever reaches it change what is served: give an --api-key")
    if directory is not None and not directory.is_dir():
        raise SetupError(f"--lora-dir {directory}: there is no such directory")
    if rows and not any(row.engine.get("max_loras") for row in rows):
        raise SetupError("--lora-dir and --allow-loras are for models with room for adapters: give --max-loras, too")
    return AdapterPolicy(directory and directory.absolute(), read_allow(allow) if allow else ())


def offered(texts: Sequence[str]) -> tuple[Adapter, ...]:
    """What a broker is given: adapters whose bases are ids. Raises SetupError."""
    specs = [parse_lora(text) for text in texts]
    if lacking := [spec.name for spec in specs if not spec.base]:
        raise SetupError(f"adapter {lacking[0]}: the key base is missing")
    return tuple(Adapter(spec.name, spec.base, spec.source) for spec in specs)


def _names(model: Model | WorkerRow) -> list[str]:
    """What a base may be called."""
    spec = parse_spec(model.spec)
    return [*spec.called, spec.source]
