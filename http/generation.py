"""The jobs of one HTTP request: submits them, follows each into its Choice, cancels what is no longer wanted.

Knows the pool and choices, not HTTP.
"""

import logging
import time
from typing import Any, NamedTuple, Protocol

from tokenyard.broker.errors import KINDS, TokenyardError, told_error
from tokenyard.broker.wire import Finish
from tokenyard.http.choice import Choice, Piece
from tokenyard.http.figures import JobMeter
from tokenyard.http.pool import JobRequest, Pool
from tokenyard.http.request_log import RECORD, RequestRecord

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Hears of a generation as it goes, on the event loop's thread, inside the socket's callback."""

    def started(self, choice: Choice) -> None:
        """A choice's job runs, and it is known what was cached; comes once, before its first piece."""

    def piece(self, choice: Choice, piece: Piece) -> None:
        """More of a choice. The last piece of the last choice makes the generation `finished`."""

    def failed(self, error: TokenyardError) -> None:
        """The whole generation ends here; every job is cancelled."""


class Plan(NamedTuple):
    """One choice to be made, and the job that makes it."""

    choice: Choice
    job: JobRequest
    counts_prompt: bool
    """Whether its prompt counts in the usage: n choices of one prompt count it once."""


class Generation:
    """Runs plans. `start` once; `cancel` in any case at the end, it is harmless when all is over."""

    def __init__(
        self, pool: Pool, plans: list[Plan], width: int | None = None, record: RequestRecord | None = None
    ) -> None:
        """`width`: so many jobs at once, in order; all, if None. `record`: of the request, if not the running one."""
        self.plans = plans
        self._width = width
        self._num_submitted = 0
        self._pool = pool
        self._listener: Listener | None = None
        self._jobs: dict[int, int] = {}
        """Running jobs' numbers by choice index."""
        self._meters: dict[int, JobMeter] = {}
        """Of running jobs, by choice index."""
        self._started: set[int] = set()
        self._paused = False
        self._record = record or RECORD.get()
        if self._record is not None and self._record.generation is None:
            self._record.generation = self

    @property
    def choices(self) -> list[Choice]:
        return [plan.choice for plan in self.plans]

    @property
    def finished(self) -> bool:
        """Every choice has its finish_reason."""
        return all(plan.choice.finished for plan in self.plans)

    @property
    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object, as of now."""
        counted = [plan for plan in self.plans if plan.counts_prompt]
        num_prompt = sum(len(plan.job.prompt_ids) for plan in counted)
        num_completion = sum(plan.choice.num_tokens for plan in self.plans)
        thoughts = [plan.choice.num_thought for plan in self.plans if plan.choice.num_thought is not None]
        details = {"completion_tokens_details": {"reasoning_tokens": sum(thoughts)}} if thoughts else {}
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_completion,
            "total_tokens": num_prompt + num_completion,
            "prompt_tokens_details": {"cached_tokens": sum(plan.choice.num_cached for plan in counted)},
            **details,
        }

    def start(self, listener: Listener) -> None:
        """Submit every job, or the first of them."""
        self._listener = listener
        self._submit()

    def _submit(self) -> None:
        """Submit the next jobs, as far as the width allows."""
        while self._num_submitted < len(self.plans) and (self._width is None or len(self._jobs) < self._width):
            plan = self.plans[self._num_submitted]
            self._num_submitted += 1
            self._meters[plan.choice.index] = JobMeter(self._pool.figures, plan.job.model, len(plan.job.prompt_ids))
            job = self._jobs[plan.choice.index] = self._pool.submit(plan.job, _Sink(self, plan.choice))
            if self._paused:
                self._pool.pause(job, on=True)

    def pause(self, *, on: bool) -> None:
        """Have nothing more computed for a client that does not keep up; or go on."""
        self._paused = on
        for job in self._jobs.values():
            self._pool.pause(job, on=on)

    def cancel(self, code: str = "cancelled") -> None:
        """End what still runs; the listener hears nothing more. `code`: why, for the log and the figures."""
        self._listener = None
        while self._jobs:
            self._pool.cancel(self._jobs.popitem()[1])
        for index in list(self._meters):
            self._over(index, code=code)

    def delta(self, choice: Choice, token_ids: list[int], extra: dict[str, Any], finish: Finish | None) -> None:
        """From a sink: more tokens of one choice."""
        if token_ids and (meter := self._meters.get(choice.index)):
            meter.tokens(len(token_ids))
            if self._record is not None and self._record.first_token_s is None:
                self._record.first_token_s = time.monotonic()
        if finish is not None:
            del self._jobs[choice.index]
            if finish.reason not in ("stop", "length"):
                error = told_error(finish.code, finish.words or "the job ended early", finish.param)
                self._over(choice.index, code=error.code)
                return self._fail(error)
        if (listener := self._listener) is None:
            return None
        try:
            piece = choice.push(token_ids, extra, finish)
            if choice.index not in self._started:
                self._started.add(choice.index)
                listener.started(choice)
            if piece.finish_reason is not None and finish is None:
                # A stop string: the worker does not know of it.
                self._pool.cancel(self._jobs.pop(choice.index))
            if piece.finish_reason is not None:
                self._over(choice.index, piece.finish_reason)
                self._submit()
            listener.piece(choice, piece)
        except Exception:  # A bug that one request meets must not end the others, whose tokens share this callback.
            log.exception("request %s: a choice failed", self._record.request_id if self._record else "-")
            self._fail(TokenyardError("worker_error", "the server failed at this answer; its log says why"))

    def failed(self, choice: Choice, error: TokenyardError) -> None:
        """From a sink: one job failed."""
        del self._jobs[choice.index]
        self._over(choice.index, code=error.code)
        self._fail(error)

    def _over(self, index: int, reason: str = "", code: str = "") -> None:
        """A choice's job has ended, with a finish reason or with an error code."""
        if meter := self._meters.pop(index, None):
            meter.end(reason, code)
        if self._record is not None:
            self._record.finish = reason or code

    def _fail(self, error: TokenyardError) -> None:
        """One failure is the whole request's."""
        if KINDS[error.code].status >= 500:
            request_id = self._record.request_id if self._record else "-"
            log.warning("request %s failed: %s: %s", request_id, error.code, error)
        listener = self._listener
        self.cancel()
        if self._record is not None:
            self._record.finish = error.code
        if listener is not None:
            listener.failed(error)


class _Sink:
    """Binds one job's calls to its choice."""

    __slots__ = ("_choice", "_generation")

    def __init__(self, generation: Generation, choice: Choice) -> None:
        self._generation = generation
        self._choice = choice

    def delta(self, token_ids: list[int], extra: dict[str, Any], finish: Finish | None) -> None:
        self._generation.delta(self._choice, token_ids, extra, finish)

    def failed(self, error: TokenyardError) -> None:
        self._generation.failed(self._choice, error)
