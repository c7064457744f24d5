"""Who has been silent for too long: a heap of due times, one for each peer, looked at only where one has come.

A peer that is heard often costs nothing until its old due time has come, when it gets a new one: a look costs what is
due, not what is there. Sans-IO.
"""

import heapq
from itertools import count

from tokenyard.broker.config import SILENCE_S
from tokenyard.broker.records import Peer, Worker


class Silence:
    """Due times of the peers given to `watch`. One is watched until `overdue` returns it or `forget` is told of it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Peer]] = []
        """(due, tie-break, peer); an entry is stale once the peer's own due time in `_due_s` differs."""
        self._due_s: dict[Peer, float] = {}
        self._ties = count()

    def __len__(self) -> int:
        return len(self._due_s)

    def watch(self, peer: Peer) -> None:
        """Begin, or take note that `heard_s` or `patience_s` has changed so that it may be due sooner."""
        due_s = _due_s(peer)
        if due_s < self._due_s.get(peer, float("inf")):
            self._due_s[peer] = due_s
            heapq.heappush(self._heap, (due_s, next(self._ties), peer))

    def forget(self, peer: Peer) -> None:
        self._due_s.pop(peer, None)

    def overdue(self, now: float) -> list[Peer]:
        """Those whose time is up."""
        found: list[Peer] = []
        while self._heap and self._heap[0][0] < now:
            was_due_s, _, peer = heapq.heappop(self._heap)
            if self._due_s.get(peer) != was_due_s:
                continue
            del self._due_s[peer]
            if _due_s(peer) < now:
                found.append(peer)
            else:
                self.watch(peer)
        return found


def _due_s(peer: Peer) -> float:
    patience_s = peer.patience_s if isinstance(peer, Worker) else 0.0
    return peer.heard_s + max(SILENCE_S, patience_s)
