"""Processes that wait, with torch imported, for the model that they are to serve: one for each device.

A worker that is started in one of them spares the seconds that the imports take. A standby is told what it is to be by
one line on its stdin (workers/standby.py); from then on it is a worker like any other.
"""

import json
import logging
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence

from tokenyard.broker.wire import INC_BYTES
from tokenyard.scripts.children import Child, start_child

MAX_DEATHS = 3
"""A device whose standbys have died so often gets none any more: workers start without, and slower."""

log = logging.getLogger(__name__)


class Standbys:
    """At most one for each place."""

    def __init__(self, places: Sequence[str]) -> None:
        """`places`: cpu, cuda:0 and so on; empty for none at all."""
        self._places = list(places)
        self._children: dict[str, Child] = {}
        self._num_deaths: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._children.values()))

    def start_missing(self) -> None:
        """Call it when nothing else is starting: the imports take all of a core."""
        for place in self._places:
            if place not in self._children and self._num_deaths[place] < MAX_DEATHS:
                gpu = place.partition(":")[2]
                arguments = ["standby", *(["--gpu", gpu] if gpu else [])]
                inc = secrets.token_bytes(INC_BYTES)
                try:
                    self._children[place] = start_child(arguments, inc, is_fed=True, has_bells=True)
                except OSError as error:  # no memory, no descriptor or no process number is left
                    self._num_deaths[place] += 1
                    log.warning("the standby process of %s cannot be started: %s", place, error.strerror)

    def take(self, place: str, arguments: Sequence[str], inc: bytes) -> Child | None:
        """The one at this place, which is now the worker of these arguments and this incarnation; None if none is."""
        child = self._children.pop(place, None)
        if child is None:
            return None
        assert child.process.stdin is not None
        try:
            with child.process.stdin as stdin:
                stdin.write(json.dumps(arguments).encode() + b"\n")
        except BrokenPipeError:  # it has just died: its death is seen as the worker's, who is started again
            log.warning("the standby process of %s died as it was needed", place)
        child.inc = inc
        return child

    def bury(self, child: Child) -> None:
        """It has died while it waited."""
        place = next(place for place, one in self._children.items() if one is child)
        del self._children[place]
        self._num_deaths[place] += 1
        status = child.reap()
        log.warning("the standby process of %s died (%d): %s", place, status, child.last_line)

    def end_all(self) -> None:
        """The pool is about to end."""
        self._places.clear()
        for child in self._children.values():
            child.reap()
        self._children.clear()
