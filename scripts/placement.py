"""Models, and the workers that they get: how many, on which devices.

Nothing is started here and no torch is imported: GPUs are counted by their device files.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import OFF, ModelSpec, format_spec, local_directory, local_gguf, parse_spec
from tokenyard.broker.wire import Post
from tokenyard.scripts.cores import usable_cores
from tokenyard.scripts.option_checks import as_arguments

GPU_FILES = re.compile(r"nvidia(\d+)")
"""/dev/nvidia0 and so on: one file for each GPU that this machine, or this container, may use."""

OTHERS_CORES = 1
"""For broker, fronts and clients, which run whenever a worker does: a worker's threads wait for the slowest of them, so
one that shares its core holds up all. On two cores, two threads instead of one cost small models half of their tokens/s
(docs/performance.md)."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker to keep alive."""

    spec: str
    device: str
    """cpu or cuda."""
    gpu: int | None
    engine: dict[str, Any] = field(default_factory=dict)
    """Options of `tokenyard worker` by name, as far as they are given."""

    @property
    def place(self) -> str:
        """For people and for agents: `cpu` or `cuda:0`."""
        return self.device if self.gpu is None else f"cuda:{self.gpu}"

    def arguments(self) -> list[str]:
        """Of `tokenyard worker`, without those that all processes share."""
        return ["worker", self.spec, *as_arguments(device=self.device, gpu=self.gpu, **self.engine)]


@dataclass(frozen=True, slots=True)
class Model:
    """A model to serve, before its workers have places."""

    spec: str
    """MODEL_SPEC without replicas and the engine's keys: what one worker is given."""
    replicas: int | None = None
    """None: as many as the devices suggest."""
    engine: dict[str, Any] = field(default_factory=dict)


def parse_model(text: str) -> Model:
    """A MODEL_SPEC of the command line. Raises SetupError."""
    return model_of(parse_spec(text))


def model_of(spec: ModelSpec) -> Model:
    """What a spec says of one worker, of their number, and of the engine, apart."""
    return Model(format_spec(spec._replace(replicas=None, engine={})), spec.replicas, dict(spec.engine))


def post_of(row: WorkerRow, number: int, is_named: bool) -> Post:
    """The post of this row, as the broker is told of it; its spec makes the same row again."""
    spec = parse_spec(row.spec)
    text = format_spec(spec._replace(engine=row.engine))
    return Post(number, spec.called[0], text, row.place, b"", spec.pin, is_named)


def parse_gpus(text: str | None) -> list[int] | None:
    """`0,1` as a list; None for None. Raises SetupError."""
    if text is None:
        return None
    gpus = text.split(",")
    if not re.fullmatch(r"\d+(,\d+)*", text) or len({int(gpu) for gpu in gpus}) < len(gpus):
        raise SetupError(f"--gpus {text!r}: give each number once, with commas between them, as in --gpus 0,1")
    return [int(gpu) for gpu in gpus]


def find_gpus() -> list[int]:
    """Numbers of the GPUs that this process may use: those of CUDA_VISIBLE_DEVICES, else all that are there."""
    there = sorted(int(found[1]) for name in os.listdir("/dev") if (found := GPU_FILES.fullmatch(name)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not there or visible is None:
        return there
    if not re.fullmatch(r"(\d+(,\d+)*)?", visible):
        raise SetupError(f"CUDA_VISIBLE_DEVICES={visible}: only numbers are understood; unset it and use --gpus")
    return [int(number) for number in visible.split(",") if number]


def choose_devices(device: str, gpus: Sequence[int] | None) -> list[int | None]:
    """Where workers may run: GPU numbers, or one None for the CPU. `device`: auto, cuda or cpu. Raises SetupError."""
    if device == "cpu":
        if gpus is not None:
            raise SetupError("--gpus and --device cpu exclude each other")
        return [None]
    found = find_gpus() if gpus is None else list(gpus)
    if not found and device == "cuda":
        raise SetupError("--device cuda: no NVIDIA GPU was found")
    return list(found) or [None]


def place(models: Sequence[Model], devices: Sequence[int | None], num_workers: int | None) -> list[WorkerRow]:
    """Give each model its workers and each worker its device, in turn.

    A model has as many workers as it says, else `num_workers`, else its share of the GPUs; at least one.
    """
    shares = [len(range(index, len(devices), len(models))) for index in range(len(models))]
    counts = [model.replicas or num_workers or max(1, share) for model, share in zip(models, shares, strict=True)]
    wanted = [model for model, count in zip(models, counts, strict=True) for _ in range(count)]
    rows = []
    for index, model in enumerate(wanted):
        gpu = devices[index % len(devices)]
        rows.append(WorkerRow(model.spec, "cpu" if gpu is None else "cuda", gpu, model.engine))
    return rows


def refuse_clashes(rows: Sequence[WorkerRow]) -> None:
    """Raise SetupError where one name would stand for two models; the broker keeps out what shows only later."""
    owners: dict[str, tuple[str, str]] = {}
    for row in rows:
        spec = parse_spec(row.spec)
        source = str(local_directory(spec.source) or local_gguf(spec.source) or spec.source)
        weights = [str(row.engine.get(key, OFF)) for key in ("dtype", "quantization")]
        named = ",file=".join(filter(None, ["@".join(filter(None, [source, spec.revision])), spec.file]))
        what = " in ".join([named, *(one for one in weights if one not in ("auto", OFF))])
        for name in spec.called:
            owner_id, owner = owners.setdefault(name, (spec.called[0], what))
            if (owner_id, owner) != (spec.called[0], what):
                raise SetupError(f"the name {name!r} would stand for {owner} and for {what}; give one `,name=ANOTHER`")


def share_cores(rows: Sequence[WorkerRow]) -> list[WorkerRow]:
    """The same workers; those on the CPU that do not say how many threads they take have an even share of the cores."""
    threads = max(1, (usable_cores() - OTHERS_CORES) // max(1, len(rows)))
    return [row if row.gpu is not None else replace(row, engine={"threads": threads} | row.engine) for row in rows]
