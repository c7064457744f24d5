"""The messages about models on demand, between fronts, broker and agents. Import them from wire.py, their one door."""

from typing import NamedTuple

from tokenyard.broker.ranges import Natural, Share

# front → broker


class Want(NamedTuple):
    """From a front whose clients ask for a model that is not up; repeated while they wait, and forgotten without."""

    model: str
    """The id that the worker's card will have."""
    spec: str
    """MODEL_SPEC."""
    weight_bytes: Natural
    """Of all tensors, in the memory of a GPU; 0: unknown."""
    cpu_bytes: Natural = 0
    """The same in that of a CPU, for which most are widened; 0: as many."""


class UnloadModel(NamedTuple):
    """From a front: dismiss all workers of a model; answered once none is left."""

    req: Natural
    model: str


# broker → front


class Loading(NamedTuple):
    """How far a wanted model is; it ends with a WorkerUp or a LoadFailed."""

    model: str
    phase: str
    """waiting (for a device), starting (a process), loading."""
    fraction: Share
    """Of the phase loading."""
    words: str
    """For people."""


class LoadFailed(NamedTuple):
    """A wanted model cannot be had."""

    model: str
    code: str
    words: str


# broker → agent


class Dismiss(NamedTuple):
    """Give up this post: its worker finishes its jobs and ends, and no other follows."""

    post: Natural
