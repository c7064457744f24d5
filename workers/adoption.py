"""Adapters on their way into the engine: read in a thread of their own, so that no step waits for a disk or the Hub.

The engine's thread is told when one has been read, and takes it in between two steps.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Adapter
from tokenyard.workers.adapter_files import AdapterFiles, read_adapter
from tokenyard.workers.engine import Engine

log = logging.getLogger(__name__)

CHANGED = "the files of the adapter {name!r} are not those that were loaded before: load it again"


class Arrived(NamedTuple):
    """What came of reading one."""

    adapter: Adapter
    files: "Future[AdapterFiles]"


class Adopted(NamedTuple):
    """The engine has this adapter, whose version is known now; or it cannot have it."""

    adapter: Adapter
    error: TokenyardError | None = None


class Adoption:
    """Of one engine."""

    def __init__(self, engine: Engine, tell: Callable[[Arrived], None]) -> None:
        """`tell`: called from another thread."""
        self._engine = engine
        self._tell = tell
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="adapters")

    def begin(self, adapter: Adapter) -> Adopted | None:
        """Have it read; an answer comes at once where this model takes none."""
        rack = self._engine.model.rack
        if rack is None:
            words = "this model takes no adapters: start it with --max-loras"
            if self._engine.model.card.lane == "encoder":
                words = "an encoder takes no adapters"
            return Adopted(adapter, TokenyardError("invalid_value", words, "lora_name"))
        files = self._reader.submit(read_adapter, adapter.source, rack.sizes, rack.rank, rack.dtype)
        files.add_done_callback(lambda files: self._tell(Arrived(adapter, files)))
        return None

    def finish(self, arrived: Arrived) -> Adopted:
        """Take it in, if it can be."""
        adapter = arrived.adapter
        try:
            files = arrived.files.result()
            if adapter.version not in ("", files.version):
                raise TokenyardError("pool_unavailable", CHANGED.format(name=adapter.name), "lora_path")
            adapter = adapter._replace(version=files.version)
            self._engine.adapters.hold(adapter.key, files.products)
        except TokenyardError as error:
            return Adopted(adapter, error)
        except Exception:  # whatever a disk or the Hub raises: streams go on
            log.exception("adapter %s cannot be loaded", adapter.name)
            return Adopted(adapter, TokenyardError("worker_error", "the adapter cannot be loaded; the log says why"))
        log.info("adapter %s is loaded from %s, version %s", adapter.name, adapter.source, adapter.version[:12])
        return Adopted(adapter)
