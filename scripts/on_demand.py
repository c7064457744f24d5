"""How a pool loads models on demand: what its devices hold, and when models make room."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

MODEL_TIMEOUT_S = 300
"""As in transformers serve."""
LOAD_TIMEOUT_S = 600
"""A 70B model from a slow disk loads in about five minutes."""
CPU_SHARE = 0.8
"""Of the machine's memory, for weights: the rest is for KV pools, the other processes and the system."""
QUERY_S = 10.0
"""nvidia-smi wakes sleeping drivers, which takes seconds."""


@dataclass(frozen=True, slots=True)
class OnDemand:
    """None leaves it to the file, then to the default."""

    gpu_share: int | None = None
    evict: str | None = None
    model_timeout_s: int | None = None
    load_timeout_s: int | None = None
    standby: bool | None = None

    def over(self, table: Mapping[str, Any]) -> "Settled":
        """Laid over the [pool] table of a file."""
        return Settled(
            gpu_share=self.gpu_share or table.get("gpu_share", 1),
            evict=self.evict or table.get("evict", "idle"),
            model_timeout_s=_first(self.model_timeout_s, table.get("model_timeout"), MODEL_TIMEOUT_S),
            load_timeout_s=_first(self.load_timeout_s, table.get("load_timeout"), LOAD_TIMEOUT_S),
            standby=table.get("standby", True) if self.standby is None else self.standby,
        )


@dataclass(frozen=True, slots=True)
class Settled:
    gpu_share: int
    """Models that may share a device, each with an even part of its memory."""
    evict: str
    """idle: a busy model makes room only when the wanted one has waited for long; busy: at once."""
    model_timeout_s: int
    """A model that was loaded on demand is unloaded after so long without a request; 0: never."""
    load_timeout_s: int
    """So long a request waits for its model, and a load may go without progress."""
    standby: bool
    """Keep a process ready for the next model on each device."""


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def has_cached_models() -> bool:
    """Whether the local Hub cache holds any."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return any(Path(HF_HUB_CACHE).glob("models--*"))


def memory_of(devices: Sequence[int | None]) -> list[int]:
    """Bytes that all models of each device may take together; 0 where that cannot be told."""
    if None in devices:
        return [int(psutil.virtual_memory().total * CPU_SHARE) if gpu is None else 0 for gpu in devices]
    command = ["nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return [0 for _ in devices]
    found = {}
    for line in told.splitlines():
        index, _, mebibytes = line.partition(",")
        if index.strip().isdigit() and mebibytes.strip().isdigit():
            found[int(index)] = int(mebibytes) << 20
    return [found.get(gpu, 0) if gpu is not None else 0 for gpu in devices]
