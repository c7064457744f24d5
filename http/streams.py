"""The front's memory of its jobs: which attempt is current, what was emitted, and what to do about each event.

Sans-IO: events and the time (seconds, any origin) in, actions out. This is where a stream survives its worker: tokens
of older attempts are fenced, a lost attempt is followed by one that resumes after all that was delivered. Must not know
sockets, HTTP, or text.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tokenyard.broker.codec import pack_ids
from tokenyard.broker.config import SUBMIT_REPEAT_S
from tokenyard.broker.errors import TokenyardError, told_error
from tokenyard.broker.params import Params
from tokenyard.broker.wire import Cancel, Delta, Finish, FrontJob, Lost, Reject, Submit

ACCEPT_WITHIN_S = 10.0
"""With no broker for so long, a request is answered with a 503: a supervisor restarts a broker in under a second."""


class JobRequest(NamedTuple):
    """What a handler asks of the pool."""

    model: str
    """A card's id."""
    prompt_ids: list[int]
    params: Params
    priority: int = 0
    """Lower goes first."""
    deadline_ms: int = 0
    """Longest wait for a worker; 0: none."""
    kind: str = "generate"
    """Or embed: then one delta comes, with the vector."""


class Deliver(NamedTuple):
    """For the job's sink: new tokens (or none: it runs), in order, once."""

    job: int
    token_ids: list[int]
    extra: dict[str, Any]
    finish: Finish | None


class Fail(NamedTuple):
    """For the job's sink: the end, without an answer."""

    job: int
    error: TokenyardError


class Send(NamedTuple):
    """For the broker."""

    message: Submit | Cancel


class Release(NamedTuple):
    """For the worker's link: this stream needs no more tokens."""

    job: int
    worker: bytes


class Missing(NamedTuple):
    """The broker knows no such model: have it loaded and say `found`, or `give_up` with this error."""

    job: int
    model: str
    error: TokenyardError


Action = Deliver | Fail | Send | Release | Missing


class _Stream:
    """One job's life, over all its attempts."""

    __slots__ = ("accepted", "attempt", "crashes", "deadline", "due", "emitted", "give_up", "lost", "missed",
                 "prefix_keys", "prompt_ids", "request", "version", "worker")  # fmt: skip

    def __init__(self, request: JobRequest, prompt_ids: bytes, prefix_keys: list[bytes], now: float) -> None:
        self.request = request
        self.prompt_ids = prompt_ids
        self.prefix_keys = prefix_keys
        self.emitted: list[int] = []
        """Every token delivered so far, over all attempts."""
        self.version = ""
        """Of the adapter that its tokens are drawn with."""
        self.attempt = 1
        self.crashes = 0
        """Counted attempts: told by the broker, told back to it, so that the count survives the broker."""
        self.accepted = False
        self.worker: bytes | None = None
        """Where this attempt runs, as far as is known."""
        self.lost = False
        """This attempt is over; the next one begins at `due`."""
        self.missed = False
        """The broker said once that it knows no such model."""
        self.due: float | None = now
        """When to submit (again); None while accepted, or while its model is loaded."""
        self.deadline = now + request.deadline_ms / 1000 if request.deadline_ms else None
        """When waiting in a queue stops making sense."""
        self.give_up = now + ACCEPT_WITHIN_S
        """When an attempt that no broker accepts is answered with an error."""

    @property
    def held(self) -> bool:
        """Waits for its model to be loaded."""
        return self.lost and self.due is None

    def again(self, due: float | None, now: float) -> None:
        """Have the next attempt submitted at `due`; None: not until its model is found."""
        self.lost, self.accepted, self.worker = True, False, None
        self.due, self.give_up = due, now + ACCEPT_WITHIN_S

    def settle(self, worker: bytes | None) -> None:
        """The broker or a worker has this attempt: no need to repeat the submit."""
        if not self.lost:
            self.accepted, self.due = True, None
            self.worker = worker or self.worker


class Streams:
    """All living jobs of one front incarnation."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._next_job = 1
        self.on_resume: Callable[[str], None] = lambda model: None
        """Called with the model of each attempt after a job's first."""

    def __len__(self) -> int:
        return len(self._streams)

    def claims(self) -> list[FrontJob]:
        """Accepted and unfinished jobs, for FrontHello."""
        return [FrontJob(job, stream.attempt) for job, stream in self._streams.items() if stream.accepted]

    def submit(
        self, request: JobRequest, prompt_ids: bytes, prefix_keys: list[bytes], now: float
    ) -> tuple[int, list[Action]]:
        """Begin a job; `prompt_ids` is the packed form of the request's."""
        job, self._next_job = self._next_job, self._next_job + 1
        self._streams[job] = _Stream(request, prompt_ids, prefix_keys, now)
        return job, self._submit(job, now)

    def cancel(self, job: int) -> list[Action]:
        """Nobody waits for this job any more; its sink hears nothing further."""
        stream = self._streams.pop(job, None)
        if stream is None:
            return []
        release: list[Action] = [Release(job, stream.worker)] if stream.worker is not None else []
        return [*release, Send(Cancel(job))]

    def worker_of(self, job: int) -> bytes | None:
        """Where it runs, as far as is known."""
        stream = self._streams.get(job)
        return stream.worker if stream else None

    def delta(self, worker: bytes, delta: Delta, now: float) -> list[Action]:
        """Tokens that came over a link. Those of another attempt, or repeated ones, are dropped."""
        stream = self._streams.get(delta.job)
        if stream is None:
            # Cancelled, and the worker has not heard: tokens in flight are answered so, too, which does no harm.
            return [Release(delta.job, worker)] if delta.finish is None else []
        if delta.attempt != stream.attempt:
            return []
        if delta.first_index != len(stream.emitted):
            if delta.first_index > len(stream.emitted):
                # The link delivers in order, so this worker is not where we think it is: go on from what we have.
                stream.again(now, now)
            return []
        if stream.due is not None or stream.worker != worker:
            stream.settle(worker)
        if delta.extra:
            stream.version = delta.extra.get("adapter_version", stream.version)
        stream.emitted += delta.token_ids
        finish = delta.finish
        if finish is not None:
            del self._streams[delta.job]
        if finish is None or finish.reason in ("stop", "length"):
            return [Deliver(delta.job, delta.token_ids, delta.extra, finish)]
        return [Fail(delta.job, told_error(finish.code, finish.words, finish.param))]

    def accepted(self, job: int, attempt: int, worker: bytes | None = None) -> None:
        """Accepted, or with a worker: Placed."""
        if (stream := self._streams.get(job)) and stream.attempt == attempt:
            stream.settle(worker)

    def rejected(self, message: Reject, now: float) -> list[Action]:
        stream = self._streams.get(message.job)
        if stream is None or stream.attempt != message.attempt or stream.lost:
            return []
        param = "model" if message.code.startswith("model_") else None
        error = told_error(message.code, message.words, param, message.retry_ms)
        if message.code == "model_not_found" and not stream.missed:
            stream.missed = True
            stream.again(None, now)
            return [Missing(message.job, stream.request.model, error)]
        return self._fail(message.job, error)

    def found(self, job: int, now: float) -> None:
        """The model that the job missed is up."""
        if (stream := self._streams.get(job)) and stream.held:
            stream.again(now, now)

    def give_up(self, job: int, error: TokenyardError) -> list[Action]:
        """The model that the job missed cannot be had."""
        stream = self._streams.get(job)
        return self._fail(job, error) if stream and stream.held else []

    def lost(self, message: Lost, now: float) -> list[Action]:
        """This attempt's worker is gone: go on elsewhere, after all that it had sent."""
        stream = self._streams.get(message.job)
        if stream is None:
            return []
        stream.crashes = max(stream.crashes, message.crashes)
        if stream.attempt != message.attempt or stream.lost:
            return []
        stream.again(now, now)
        return self._submit(message.job, now)

    def forgotten(self, worker: bytes, now: float) -> None:
        """This worker has freed all that it did for us: what it had not delivered will never come."""
        for stream in self._streams.values():
            if stream.worker == worker:
                stream.again(now, now)

    def unreachable(self, worker: bytes, words: str) -> list[Action]:
        """What is placed on this worker would wait for ever."""
        jobs = [job for job, stream in self._streams.items() if stream.worker == worker]
        error = TokenyardError("pool_unavailable", f"the worker of this request cannot be reached: {words}", None, 1000)
        return [action for job in jobs for action in self._fail(job, error)]

    def new_broker(self, now: float) -> None:
        """What no worker has answered yet may have died in the old broker's queue: a next attempt fences what lives.

        Streams that already flow are left alone: they need no broker, and their workers claim them.
        """
        for stream in self._streams.values():
            if not stream.emitted and not stream.held:
                stream.again(now, now)

    def tick(self, now: float) -> list[Action]:
        """Submits that are due, first ones and repeats."""
        due = [job for job, stream in self._streams.items() if stream.due is not None and now >= stream.due]
        return [action for job in due for action in self._submit(job, now)]

    def _submit(self, job: int, now: float) -> list[Action]:
        stream = self._streams[job]
        if stream.lost:
            stream.lost, stream.attempt = False, stream.attempt + 1
            self.on_resume(stream.request.model)
        wait_ms = 0
        if stream.deadline is not None and not stream.emitted:
            wait_ms = round(1000 * (stream.deadline - now))
            if wait_ms <= 0:
                return self._fail(job, TokenyardError("deadline_exceeded", "no worker was free before the deadline"))
        if now >= stream.give_up:
            return self._fail(job, TokenyardError("pool_unavailable", "the pool's broker does not answer", None, 1000))
        stream.due = now + SUBMIT_REPEAT_S
        request = stream.request
        return [
            Send(
                Submit(
                    job,
                    stream.attempt,
                    request.model,
                    request.kind,
                    stream.prompt_ids,
                    pack_ids(stream.emitted),
                    request.params,
                    request.priority,
                    wait_ms,
                    stream.prefix_keys,
                    stream.crashes,
                    stream.version if stream.emitted else "",
                )
            )
        ]

    def _fail(self, job: int, error: TokenyardError) -> list[Action]:
        del self._streams[job]
        return [Send(Cancel(job)), Fail(job, error)]

    def check(self) -> None:
        """Invariants, for tests."""
        for stream in self._streams.values():
            assert (stream.accepted or stream.held) == (stream.due is None)
            assert not (stream.accepted and stream.lost)
            assert len(stream.emitted) <= stream.request.params.max_tokens
