"""The messages by which a worker is emptied and replaced. Import them from wire.py, their one door.

What they mean together stands in docs/protocol.md, "Retiring".
"""

from typing import NamedTuple

from tokenyard.broker.ranges import Inc, MaybeInc, Natural

SUCCESSORS = ("none", "auto", "before", "after")
"""Whether another worker takes its place, and when that starts: before this one takes no more jobs, after it has ended,
or (auto) as the device allows."""

# command line → broker


class DrainWorker(NamedTuple):
    """Let this worker finish its jobs and end; answered once it has, and its successor, if one is asked for, serves."""

    req: Natural
    inc: Inc
    successor: str = "none"
    """One of SUCCESSORS."""
    timeout_ms: int = -1
    """Its jobs are handed to others after so long; -1: never."""


# broker → agent


class Retire(NamedTuple):
    """The same for the worker's agent; repeated until Retired."""

    inc: Inc
    successor: str
    timeout_ms: int


# agent → broker


class Retired(NamedTuple):
    """It has ended, and `successor` serves in its place; or, with words, that could not be."""

    inc: Inc
    successor: MaybeInc
    """Empty: none."""
    words: str
