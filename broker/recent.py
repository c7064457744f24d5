"""What was asked by whom lately: kept for repeats, for a while and in a bounded number. Sans-IO."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

REQUEST_MEMORY_S = 60.0
"""A request is remembered so long after it was last heard; an asker repeats it within a second."""
MAX_REQUESTS = 1024
"""Remembered of a kind: more than operators have at once, and what a stranger asks in a loop fills no memory."""

Asker = tuple[bytes, int]
"""A peer, and its number for the request."""
V = TypeVar("V")


class Recent(Generic[V]):
    """By asker; of too many, those are forgotten that were not heard for longest."""

    def __init__(self, seconds: float = REQUEST_MEMORY_S) -> None:
        self._seconds = seconds
        self._known: OrderedDict[Asker, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._known.values())

    def get(self, asker: Asker) -> V | None:
        known = self._known.get(asker)
        return known[1] if known else None

    def hear(self, asker: Asker, value: V, now: float) -> None:
        """It has asked, or asked again."""
        self._known[asker] = now, value
        self._known.move_to_end(asker)
        if len(self._known) > MAX_REQUESTS:
            self._known.popitem(last=False)

    def pop(self, asker: Asker) -> V | None:
        known = self._known.pop(asker, None)
        return known[1] if known else None

    def forget(self, now: float) -> None:
        """Those that were not heard for too long."""
        while self._known and next(iter(self._known.values()))[0] <= now - self._seconds:
            self._known.popitem(last=False)
