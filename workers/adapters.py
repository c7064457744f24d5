"""Which adapters an engine holds, on which shelf each lies, and who still needs it.

An adapter is known by its name and version: two of one name may be held for a while, as sequences end with what they
began with. Must not know of files (adapter_files.py) nor how adapters are computed (rack.py).
"""

from dataclasses import dataclass

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import PLAIN, AdapterKey
from tokenyard.workers.rack import Product, Rack

RETRY_MS = 5_000
"""An answer lasts seconds."""


@dataclass(slots=True)
class _Held:
    shelf: int
    num_users: int = 0
    """Sequences and texts that are computed with it."""
    retired: bool = False
    """No new ones are: the shelf is free once the last has ended."""


class Adapters:
    """Of one engine."""

    def __init__(self, rack: Rack | None) -> None:
        self._rack = rack
        self._held: dict[AdapterKey, _Held] = {}
        self._free = list(range(1, rack.num_shelves + 1)) if rack else []

    def hold(self, key: AdapterKey, products: dict[str, Product]) -> None:
        """Take an adapter in. Raises TokenyardError where there is no room."""
        assert self._rack is not None
        if held := self._held.get(key):
            held.retired = False
            return
        names = {other.name for other, held in self._held.items() if not held.retired}
        if key.name not in names and len(names) >= self._rack.most:
            words = f"{self._rack.most} adapters are loaded, as many as there may be (--max-loras): unload one first"
            raise TokenyardError("invalid_value", words, "lora_name")
        if not self._free:
            words = "answers of adapters that were unloaded are still being made: try again when they have ended"
            raise TokenyardError("pool_unavailable", words, "lora_name", retry_ms=RETRY_MS)
        shelf = self._free.pop()
        self._rack.place(shelf, products)
        self._held[key] = _Held(shelf)

    def retire(self, key: AdapterKey) -> None:
        """Give it to no new job; an unknown one is none."""
        if held := self._held.get(key):
            held.retired = True
            self._tidy(key, held)

    def take(self, key: AdapterKey) -> int:
        """The shelf for one more sequence. Raises TokenyardError where it is not here."""
        if key == PLAIN:
            return 0
        held = self._held.get(key)
        if held is None:
            words = f"the adapter {key.name!r} of this version is not loaded in this worker"
            raise TokenyardError("pool_unavailable", words, "model")
        held.num_users += 1
        return held.shelf

    def leave(self, key: AdapterKey) -> None:
        """One that took it has ended."""
        if key != PLAIN:
            held = self._held[key]
            held.num_users -= 1
            self._tidy(key, held)

    def _tidy(self, key: AdapterKey, held: _Held) -> None:
        if held.retired and not held.num_users:
            self._free.append(held.shelf)
            del self._held[key]

    def check(self) -> None:
        """Assert that each shelf has one place."""
        shelves = [*self._free, *(held.shelf for held in self._held.values())]
        assert sorted(shelves) == list(range(1, (self._rack.num_shelves if self._rack else 0) + 1))
        assert all(held.num_users or not held.retired for held in self._held.values())
