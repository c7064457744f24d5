"""The adapters at a worker's desk: which are loaded, which are being loaded, and what the engine is told about them.

Sans-IO, as desk.py is, whose part this is. The worker's card says what is loaded here; two of one name may be for a
while, told apart by the stamp of the request that brought each.
"""

from typing import NamedTuple

from tokenyard.broker.wire import Adapter, AdapterKey, LoadAdapter, UnloadAdapter


class Adopt(NamedTuple):
    """For the engine: load this adapter; `version` is empty where any will do."""

    adapter: Adapter


class Retire(NamedTuple):
    """For the engine: give it to no new job."""

    key: AdapterKey


Stamped = tuple[str, int]
"""Name and stamp."""


class AdapterDesk:
    """Of one worker life."""

    def __init__(self) -> None:
        self._loaded: dict[Stamped, Adapter] = {}
        self._loading: set[Stamped] = set()

    @property
    def loaded(self) -> list[Adapter]:
        """For the worker's card."""
        return list(self._loaded.values())

    def load(self, message: LoadAdapter) -> list[Adopt | Retire]:
        """Begin, unless it is loaded or being loaded; anew, where what is loaded is another version than is wanted."""
        wanted = message.adapter
        stamped = wanted.name, wanted.stamp
        known = self._loaded.get(stamped)
        if stamped in self._loading or (known is not None and wanted.version in ("", known.version)):
            return []
        retired = self.unload(UnloadAdapter(*stamped)) if known is not None else []
        self._loading.add(stamped)
        return [*retired, Adopt(wanted)]

    def unload(self, message: UnloadAdapter) -> list[Adopt | Retire]:
        """Let go of it; what is still being loaded is let go of when it is there."""
        stamped = message.name, message.stamp
        self._loading.discard(stamped)
        known = self._loaded.pop(stamped, None)
        return self._retire(known) if known is not None else []

    def adopted(self, adapter: Adapter) -> list[Adopt | Retire]:
        """The engine has it."""
        stamped = adapter.name, adapter.stamp
        if stamped not in self._loading:
            return self._retire(adapter)
        self._loading.remove(stamped)
        self._loaded[stamped] = adapter
        return []

    def failed(self, adapter: Adapter) -> bool:
        """The engine cannot have it; whether anybody still waits for it."""
        waited = (adapter.name, adapter.stamp) in self._loading
        self._loading.discard((adapter.name, adapter.stamp))
        return waited

    def _retire(self, adapter: Adapter) -> list[Adopt | Retire]:
        """Unless another request brought the very same files under the same name."""
        kept = any(other.key == adapter.key for other in self._loaded.values())
        return [] if kept else [Retire(adapter.key)]

    def check(self) -> None:
        """Invariants, for tests."""
        assert not self._loading & self._loaded.keys()
        assert all(adapter.version for adapter in self._loaded.values())
