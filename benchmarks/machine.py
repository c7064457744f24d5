"""What stands beside every number: the machine, the software and the date."""

import os
import platform
import time
from importlib import metadata
from pathlib import Path


def cpu_name() -> str:
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gpu_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def machine(device: str) -> str:
    """The processor, after the GPU where one is used."""
    words = f"{cpu_name()}, {os.cpu_count()} cores"
    gpu = gpu_name() if device != "cpu" else None
    return f"{gpu}; {words}" if gpu else words


def versions() -> str:
    names = [f"{name} {metadata.version(name)}" for name in ("tokenyard", "transformers", "torch")]
    return f"{', '.join(names)}, Python {platform.python_version()}"


def today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def load_average() -> str:
    """Runnable processes over the last minute; above what the benchmark itself runs, others had part of the machine."""
    return f"{os.getloadavg()[0]:.1f}"
