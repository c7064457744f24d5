"""Which model a request's name means, whether it may be loaded and how large it is; and which could be asked for.

Disk and Hub are asked in threads of its own: one that hangs holds up nothing else.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.catalog.finder import Finder, Target
from tokenyard.http.catalog.listing import Listed, list_models
from tokenyard.http.catalog.policy import Policy

__all__ = ["Catalog", "Listed", "Policy", "Target"]

NUM_THREADS = 4
MAX_LOOK_UPS = 64
"""Names that are looked up at once: anybody may ask for names without end."""
FAILURE_S = 5.0
"""So long a failed look-up is answered from memory: clients that repeat a request need not hit the Hub each time."""
LISTING_S = 5.0
"""So old a listing may be: consoles ask for /v1/models again and again."""
RETRY_MS = 1000


class Catalog:
    """One front's; all calls on the event loop's thread."""

    def __init__(self, policy: Policy) -> None:
        """Raises SetupError if a spec of the policy's is none."""
        self._finder = Finder(policy)
        self._policy = policy
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="catalog")
        self._look_ups: dict[str, asyncio.Future[Target]] = {}
        self._failures: dict[str, tuple[TokenyardError, float]] = {}
        self._listing: asyncio.Future[list[Listed]] | None = None
        self._listed_s = -LISTING_S

    async def resolve(self, name: str) -> Target:
        """What this name stands for. Raises TokenyardError with words for the user: refused, missing, unfit."""
        failure, until_s = self._failures.get(name, (None, 0.0))
        if failure is not None and time.monotonic() < until_s:
            raise failure.with_traceback(None)
        look_up = self._look_ups.get(name)
        if look_up is None:
            if len(self._look_ups) >= MAX_LOOK_UPS:
                words = "too many names of models are being looked up"
                raise TokenyardError("queue_full", words, "model", retry_ms=RETRY_MS)
            look_up = asyncio.get_running_loop().run_in_executor(self._threads, self._finder.find, name)
            self._look_ups[name] = look_up
            look_up.add_done_callback(lambda done: self._looked_up(name, done))
        # Shielded: one client that leaves must not end it for all.
        return await asyncio.shield(look_up)

    async def listing(self) -> list[Listed]:
        """Models that may be asked for and are known without the network, up or not; by id."""
        if self._listing is None or (self._listing.done() and time.monotonic() > self._listed_s + LISTING_S):
            self._listed_s = time.monotonic()
            loop = asyncio.get_running_loop()
            self._listing = loop.run_in_executor(self._threads, list_models, self._policy, self._finder)
        return await asyncio.shield(self._listing)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _looked_up(self, name: str, done: "asyncio.Future[Target]") -> None:
        del self._look_ups[name]
        if done.cancelled() or not isinstance(failure := done.exception(), TokenyardError):
            return
        now = time.monotonic()
        self._failures = {key: one for key, one in self._failures.items() if one[1] > now}
        self._failures[name] = (failure, now + FAILURE_S)
