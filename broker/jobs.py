"""The life of a job: submitted, queued, placed, ended; lost with its worker, fenced by a newer attempt.

A job's record outlives its end by LINGER_S, so that a repeated Submit gets the first one's answer and never runs twice.
Peers and time-outs are core.py's business, the choice of a worker dispatch.py's, what others claim to have claims.py's.
"""

import heapq
from itertools import count
from math import inf

from tokenyard.broker.config import SILENCE_S
from tokenyard.broker.dispatch import Model
from tokenyard.broker.records import (
    MAX_CRASHES,
    MAX_MODELS,
    MAX_NAME,
    Death,
    Front,
    Job,
    Lane,
    Phase,
    Placement,
    State,
    Worker,
    changed_words,
)
from tokenyard.broker.wire import (
    FRONT_GONE,
    PLAIN,
    Accepted,
    Adapter,
    Done,
    Lost,
    Placed,
    Reject,
    Start,
    Submit,
    WorkerJob,
)

LINGER_S = 2 * SILENCE_S
"""An ended job is remembered so long: a front that was silent for half of it is dead, and its repeats with it."""

MAX_ENDED = 1 << 16
"""Of these: 8,000 a second, more than one broker refuses. In a flood the oldest are forgotten before their time."""
MAX_SERVED = 1000
"""Letters of names in an answer, which is remembered."""
MAX_RESUMED = 1 << 17
"""Resumed jobs may wait in any number that a pool of workers can have had (codec.MAX_ITEMS), and yet not in any."""

RETRY_MS = 1000
"""What queue_full suggests: about the time in which a step-bound queue moves by a whole batch."""


class Jobs:
    """All decisions about jobs, over a State that it shares with the rest of the core."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._ties = count()

    # ---- from fronts

    def submit(self, front: Front, submit: Submit) -> None:
        """Queue or place it, refuse it, or answer a repeat with the state it has."""
        state = self._state
        front.claims.pop(submit.job, None)
        old = front.jobs.get(submit.job)
        if old is not None and submit.attempt <= old.attempt:
            if submit.attempt == old.attempt:
                old.confirmed = True
                state.send(front.peer, old.answer)
            return None
        crashes = max(submit.crashes, old.crashes if old else 0)
        if old is not None:
            self.fence(old)
        job = Job(front, submit.job, submit.attempt, crashes, Phase.QUEUED, Accepted(submit.job, submit.attempt))
        job.identity = old.identity if old else None
        front.jobs[job.number] = job
        name = state.base_of(submit.model)
        is_known = submit.attempt > 1 or name in state.recipes or name != submit.model
        model = self._model_for(name, is_known and len(state.models) < MAX_MODELS and len(name) <= MAX_NAME)
        if model is None:
            served = ", ".join(sorted(state.models))[:MAX_SERVED] or "none"
            return self._reject(job, "model_not_found", f"no model {submit.model[:MAX_SERVED]!r}; served: {served}")
        if crashes >= MAX_CRASHES:
            return self._reject(job, "job_crashes_workers", _crash_words(crashes))
        offered = state.adapters.get(submit.model)
        if offered and (words := offered.refusal(submit.version)):
            return self._reject(job, "pool_unavailable", words)
        if job.identity is not None and model.identity not in (None, job.identity):
            return self._reject(job, "pool_unavailable", changed_words(model.name))
        job.adapter = offered.adapter.key if offered else PLAIN
        self._enqueue(job, submit, model)
        self.dispatch(model)
        if job.phase is not Phase.QUEUED:
            return None
        limit = state.queue_limit if job.attempt == 1 else MAX_RESUMED
        if state.num_queued > limit:
            self._dequeue(job)
            return self._reject(job, "queue_full", f"{limit} requests are waiting already", RETRY_MS)
        return state.send(front.peer, job.answer)

    def cancel(self, front: Front, number: int) -> None:
        """Take it out of the queue, or have its worker drop it."""
        front.claims.pop(number, None)
        job = front.jobs.get(number)
        if job is None or job.phase is Phase.ENDED:
            return
        model = job.model
        self.fence(job)
        self.end(job, Reject(number, job.attempt, "cancelled", "the client has gone", 0))
        if model is not None:
            self.dispatch(model)

    def drop_all(self, front: Front) -> None:
        """The front is gone: its jobs end everywhere."""
        models = {job.model for job in front.jobs.values() if job.model is not None}
        for job in front.jobs.values():
            self.fence(job)
        front.jobs.clear()
        for model in models:
            self.dispatch(model)

    # ---- from workers

    def done(self, worker: Worker, done: Done) -> None:
        key = WorkerJob(done.front, done.job, done.attempt)
        if placement := worker.placements.pop(key, None):
            job = self.freed(worker, placement)
            if job is not None and done.reason == FRONT_GONE:  # from the worker: here it lives
                self.end(job, Lost(job.number, job.attempt, job.crashes))
                self._state.send(job.front.peer, job.answer)
            elif job is not None:
                self.end(job, job.answer)
            self.dispatch_on(worker)

    def lose(self, worker: Worker) -> list[WorkerJob]:
        """The worker is gone: end what ran on it, saying nothing yet; returns what it took along."""
        lost = []
        for key, placement in list(worker.placements.items()):
            del worker.placements[key]
            if job := self.freed(worker, placement):
                self.end(job, Lost(job.number, job.attempt, job.crashes))
                lost.append(key)
        return lost

    def abandon(self, worker: Worker) -> list[WorkerJob]:
        """What runs on a living worker is lost to it: told to go, ended, nothing said yet; returns what it was."""
        lost = []
        for key, placement in worker.placements.items():
            if job := placement.job:
                self._state.abort(worker, key)
                self.end(job, Lost(job.number, job.attempt, job.crashes))
                lost.append(key)
        if worker.model is not None:
            worker.model.update(worker)
        return lost

    def count_crash(self, death: Death) -> None:
        """The worker crashed by itself, says its agent: that counts against its jobs, whatever attempt they are at."""
        if death.counted:
            return
        death.counted = True
        for key in death.jobs:
            if (job := self._state.job_of(key)) is None:
                continue
            job.crashes += 1
            if isinstance(job.answer, Lost):
                job.answer = job.answer._replace(crashes=job.crashes)
            elif job.phase is Phase.QUEUED:
                self._suspect(job)

    def is_suspect(self, key: WorkerJob) -> bool:
        """Whether a crash counts against this job."""
        job = self._state.job_of(key)
        return job is not None and job.crashes > 0

    def announce(self, lost: list[WorkerJob]) -> None:
        """Tell the fronts what was lost, unless they have moved on."""
        for key in lost:
            job = self._state.job_of(key)
            if job is not None and job.attempt == key.attempt and isinstance(job.answer, Lost):
                self._state.send(job.front.peer, job.answer)

    # ---- by time

    def expire_deadlines(self) -> None:
        state = self._state
        while (due_s := self.next_deadline_s()) <= state.now:
            _, _, job = heapq.heappop(state.deadlines)
            if job.deadline_s != due_s:
                continue
            model = job.model
            assert model is not None
            self._dequeue(job)
            self._reject(job, "deadline_exceeded", "the request waited in the queue for as long as it may")
            self.dispatch(model)

    def next_deadline_s(self) -> float:
        """When the next queued job may run out of time; it may also have left the queue."""
        return self._state.deadlines[0][0] if self._state.deadlines else inf

    def forget_ended(self) -> None:
        ended = self._state.ended
        while ended and (ended[0][0] <= self._state.now or len(ended) > MAX_ENDED):
            _, job = ended.popleft()
            if job.front.jobs.get(job.number) is job:
                del job.front.jobs[job.number]

    def forget_models(self) -> None:
        """Of too many, those that no job waits for; the longest without a worker first."""
        models = self._state.models
        if (num_over := len(models) - MAX_MODELS) > 0:
            idle = [model for model in models.values() if not model.workers and not model.num_queued]
            for model in sorted(idle, key=lambda model: model.known_until_s)[:num_over]:
                del models[model.name]

    def reject_queued(self, model: Model, code: str, words: str, adapter: str | None = None) -> None:
        """None of them can run any more; none that names the adapter, if one is given."""
        for job in model.waiting():
            if adapter is None or job.adapter.name == adapter:
                self._dequeue(job)
                self._reject(job, code, words)

    def readapt(self, adapter: Adapter) -> None:
        """Its name stands for this from now on: queued jobs wait for it, and those begun with another version end."""
        state = self._state
        stray = state.models.get(adapter.name)
        if stray is not None and not stray.served:  # nobody knew yet that it would be an adapter
            del state.models[adapter.name]
        for job in stray.waiting() if stray is not None and not stray.served else ():
            submit, deadline_s = job.submit, job.deadline_s
            assert submit is not None
            self._dequeue(job)
            base = self._model_for(adapter.base, is_known=True)
            assert base is not None
            self._enqueue(job, submit._replace(deadline_ms=0), base)
            job.adapter, job.deadline_s = adapter.key, deadline_s
        if model := state.models.get(adapter.base):
            for job in [job for job in model.waiting() if job.adapter.name == adapter.name]:
                assert job.submit is not None
                job.adapter = adapter.key
                if adapter.version and job.submit.version not in ("", adapter.version):
                    self._dequeue(job)
                    self._reject(job, "pool_unavailable", changed_words(adapter.name))

    def dispatch(self, model: Model) -> None:
        """Place what can be placed."""
        state = self._state
        while state.settled and (match := model.next_match()):
            job, worker = match
            submit = job.submit
            assert submit is not None
            assert worker.credit > 0
            key = job.key
            worker.placements[key] = Placement(state.now, worker.num_claims, job)
            model.note_placed(job, worker)
            model.used_s = state.now
            self._dequeue(job)
            job.phase, job.worker, job.answer = Phase.PLACED, worker, Placed(job.number, job.attempt, worker.inc)
            job.identity = model.identity
            start = Start(*key, submit.kind, submit.prompt_ids, submit.emitted_ids, submit.params, *job.adapter)
            state.send(worker.peer, start)
            state.send(job.front.peer, job.answer)

    # ---- steps

    def _model_for(self, name: str, is_known: bool) -> Model | None:
        """One that is known, by a resumed job or otherwise, is waited for; in the grace any may still turn up."""
        state = self._state
        model = state.models.get(name)
        if model is None and (is_known or state.now < state.grace_until_s):
            wait_s = state.now + state.load_timeout_s if is_known else state.grace_until_s
            model = state.models[name] = Model(name, wait_s)
        return model

    def _enqueue(self, job: Job, submit: Submit, model: Model) -> None:
        state = self._state
        job.submit, job.model, job.lane = submit, model, Lane.of(job.crashes)
        model.enqueue(job)
        state.num_queued += 1
        if submit.deadline_ms > 0:
            job.deadline_s = state.now + submit.deadline_ms / 1000
            if len(state.deadlines) > 2 * state.num_queued + 64:  # mostly stale: rebuild, so that memory stays bounded
                state.deadlines[:] = [entry for entry in state.deadlines if entry[2].deadline_s == entry[0]]
                heapq.heapify(state.deadlines)
            heapq.heappush(state.deadlines, (job.deadline_s, next(self._ties), job))

    def _dequeue(self, job: Job) -> None:
        assert job.model is not None
        job.model.dequeue(job)
        self._state.num_queued -= 1
        job.submit, job.model, job.deadline_s = None, None, inf

    def _suspect(self, job: Job) -> None:
        """Move a queued job to the lane that its raised count demands, or give it up."""
        submit, model, deadline_s = job.submit, job.model, job.deadline_s
        assert submit is not None
        assert model is not None
        self._dequeue(job)
        if job.crashes >= MAX_CRASHES:
            return self._reject(job, "job_crashes_workers", _crash_words(job.crashes))
        self._enqueue(job, submit._replace(deadline_ms=0), model)
        job.deadline_s = deadline_s  # its entry in the heap still stands
        return self.dispatch(model)

    def fence(self, job: Job) -> None:
        """Stop this attempt wherever it is."""
        if job.phase is Phase.QUEUED:
            self._dequeue(job)
        elif job.phase is Phase.PLACED:
            assert job.worker is not None
            self._state.abort(job.worker, job.key)

    def freed(self, worker: Worker, placement: Placement) -> Job | None:
        """The placement has been taken off the worker; returns its job if that was still running there."""
        assert worker.model is not None
        worker.model.note_freed(worker)
        worker.model.used_s = self._state.now
        return placement.job

    def dispatch_on(self, worker: Worker) -> None:
        if worker.model is not None:
            worker.model.update(worker)
            self.dispatch(worker.model)

    def end(self, job: Job, answer: Placed | Reject | Lost | Accepted) -> None:
        job.phase, job.answer, job.worker = Phase.ENDED, answer, None
        job.submit, job.model, job.deadline_s = None, None, inf
        self._state.ended.append((self._state.now + LINGER_S, job))

    def _reject(self, job: Job, code: str, words: str, retry_ms: int = 0) -> None:
        self.end(job, Reject(job.number, job.attempt, code, words, retry_ms))
        self._state.send(job.front.peer, job.answer)


def _crash_words(num_crashes: int) -> str:
    return f"{num_crashes} workers crashed while they ran this request"
