"""Responses that are made without their client: each run writes to the store, and any front reads on from there."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.choice import Choice, Piece
from tokenyard.http.drain import Drain
from tokenyard.http.errors import HttpError, shutting_down
from tokenyard.http.generation import Generation
from tokenyard.http.replies import KEEP_ALIVE, typed_event
from tokenyard.http.responses.database import Database, Row
from tokenyard.http.responses.format import ResponsesFormat
from tokenyard.http.responses.sequencer import TERMINAL, Event
from tokenyard.http.responses.store import Store

log = logging.getLogger(__name__)

FLUSH_S = 0.05
"""Events are written so often: for the eye at once, for the store one write in place of several."""
WATCH_S = 0.25
"""A cancel through another front is seen so soon; one query for all that run here."""
FOLLOW_S = 0.05
"""A client that follows gets new events so often, which is how often there are any."""


class Run:
    """One generation whose listener is the store."""

    def __init__(self, runs: "Runs", generation: Generation, form: ResponsesFormat, streams: bool) -> None:
        self._runs = runs
        self._generation = generation
        self._form = form
        self._streams = streams
        self._unwritten: list[tuple[int, bytes]] = []
        self._flushing: asyncio.TimerHandle | None = None

    @property
    def id(self) -> str:
        found: str = self._form.sequencer.response["id"]
        return found

    def start(self) -> None:
        self._generation.start(self)

    def cancel(self) -> None:
        """The client wants no more of it; the store knows."""
        self._generation.cancel()
        self._over(self._form.leave)

    def stop(self, error: TokenyardError) -> None:
        """The server goes down."""
        self._generation.cancel(error.code)
        self.failed(error)

    # From the generation.

    def started(self, choice: Choice) -> None:
        self._tell(self._form.begin())
        self._runs.store.tell(Database.update, dict(self._form.sequencer.response))

    def piece(self, choice: Choice, piece: Piece) -> None:
        self._tell(self._form.take(piece))
        if self._generation.finished:
            self._over(self._form.end)

    def failed(self, error: TokenyardError) -> None:
        self._over(lambda: self._form.fail(error))

    # To the store.

    def _tell(self, events: list[Event]) -> None:
        if not self._streams or not events:
            return
        self._unwritten += [(event["sequence_number"], self._form.encode([event])) for event in events]
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._unwritten:
            events, self._unwritten = self._unwritten, []
            self._runs.store.tell(Database.add_events, self.id, events)

    def _over(self, last: Callable[[], list[Event]]) -> None:
        """The response has ended. Its events are written before its state: who sees the one has the other."""
        if self._runs.forget(self):
            self._tell(last())
            self._flush()
            self._runs.store.tell(Database.update, self._form.sequencer.response)


class Runs:
    """All that run in this front."""

    def __init__(self, store: Store, drain: Drain) -> None:
        self.store = store
        self._drain = drain
        drain.background.append(lambda: len(self._running))
        self._running: dict[str, Run] = {}
        self._watching: asyncio.Task[None] | None = None

    def start(self, run: Run) -> None:
        self._running[run.id] = run
        run.start()
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())

    def cancel(self, response_id: str) -> None:
        """End a run that the store calls cancelled, if it is here."""
        if (run := self._running.get(response_id)) is not None:
            run.cancel()

    def forget(self, run: Run) -> bool:
        """A run is over; False where it was already."""
        return self._running.pop(run.id, None) is not None

    async def close(self) -> None:
        """The server goes down: what still runs when the time is up has failed."""
        clock = asyncio.get_running_loop().time
        self._drain.begin(clock())
        while self._running and self._drain.left_s(clock()):
            await asyncio.sleep(FOLLOW_S)
        for run in list(self._running.values()):
            run.stop(shutting_down())
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        """Notice what other fronts cancelled or deleted, as long as anything runs."""
        while self._running:
            await asyncio.sleep(WATCH_S)
            with suppress(HttpError):  # the log says it; perhaps the next look succeeds
                for response_id in await self.store.run(Database.ended, list(self._running)):
                    self.cancel(response_id)


async def follow(store: Store, row: Row, after: int, keep_alive_s: float) -> AsyncIterator[bytes]:
    """The events of a response that streams, from the one after `after` to its last; whichever front makes it."""
    silent_s = 0.0
    current: Row | None = row
    try:
        while current is not None:
            running = current.running
            events = await store.run(Database.events, row.id, after)
            if events:
                after, silent_s = events[-1][0], 0.0
                yield b"".join(data for _, data in events)
            if not running:
                # All of its events are written, but the last of them may never be: its maker died, or was not asked.
                if not _is_last(await store.run(Database.last_event, row.id)):
                    yield _made_up_end(current, after)
                return
            await asyncio.sleep(FOLLOW_S)
            silent_s += FOLLOW_S
            if silent_s >= keep_alive_s:
                silent_s = 0.0
                yield KEEP_ALIVE
            current = await store.run(Database.get, row.id)
    except HttpError as error:
        # The response goes on. By the number of the last event that was told, so that who asks again misses none.
        told = {"type": "error", "sequence_number": after, "code": error.code, "message": error.words, "param": None}
        yield typed_event(told)


def _is_last(data: bytes | None) -> bool:
    return data is not None and data[len(b"event: ") : data.index(b"\n")].decode() in TERMINAL.values()


def _made_up_end(row: Row, after: int) -> bytes:
    """The last event of a response whose maker did not write one."""
    kind = TERMINAL.get(row.status, "response.incomplete")
    return typed_event({"type": kind, "sequence_number": after + 1, "response": row.body})
