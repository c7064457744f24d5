"""The messages by which an agent tells of its workers' ends. Import them from wire.py, their one door."""

from typing import NamedTuple

from tokenyard.broker.ranges import Inc

# agent → broker


class Dying(NamedTuple):
    """A worker computes nothing more: its process has begun to end. `Exited` follows once it has."""

    inc: Inc


class Exited(NamedTuple):
    """A worker has ended. `cause`: crash (own signal, device error, out of memory), killed (from outside), drained."""

    inc: Inc
    cause: str
    words: str
    final: bool = False
    """Its post is given up: no other life follows."""
