"""A process that has imported what a worker needs and waits for its orders: one line of JSON on stdin.

On CUDA it has made its context, too, which takes a third of a second and some 500 MiB of the device.
"""

import gc
import json
import sys

from tokenyard.workers.gently import gently
from tokenyard.workers.main import set_device, set_waiting


def wait_for_arguments(gpu: int | None) -> list[str] | None:
    """The arguments of the `tokenyard worker` that this process is to become; None where its parent has gone."""
    set_device(gpu)
    set_waiting()
    gc.disable()  # a quarter of the imports' time is the collector's, which finds nothing
    gently(_prepare)
    if gpu is not None:
        _make_context()
    gc.freeze()
    gc.enable()
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def _prepare() -> None:
    """Import what takes the time; nobody waits for it, and workers serve on the same cores."""
    import tokenyard.workers.engine
    import tokenyard.workers.model  # noqa: F401


def _make_context() -> None:
    import torch

    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")
