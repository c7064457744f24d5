"""The messages about LoRA adapters, between fronts, broker and workers. Import them from wire.py, their one door.

What they mean together stands in docs/protocol.md, "Adapters".
"""

from typing import NamedTuple

from tokenyard.broker.ranges import Natural
from tokenyard.broker.structures import Adapter

# front → broker


class AddAdapter(NamedTuple):
    """From a front: have all workers of a model load an adapter; answered once they have, or one could not."""

    req: Natural
    adapter: Adapter
    replace: bool = False
    """Whether it may take the place of one of the same name."""


class RemoveAdapter(NamedTuple):
    """From a front: answered once no worker gives it to new jobs."""

    req: Natural
    name: str


# broker → worker


class LoadAdapter(NamedTuple):
    """Repeated until the worker's card has it, or AdapterFailed. Where a version is named, no other will do."""

    adapter: Adapter


class UnloadAdapter(NamedTuple):
    """Give it to no new job; repeated until the worker's card lacks it. Jobs that run with it go on."""

    name: str
    stamp: Natural


# worker → broker


class AdapterFailed(NamedTuple):
    """The worker cannot load this adapter; what it has loaded stands in its card, for a hello follows each change."""

    name: str
    stamp: Natural
    code: str
    words: str
    param: str = ""
    """The field of the request that is at fault."""
