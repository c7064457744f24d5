"""What fronts and workers say they have, beside what the broker knows: taken over, healed, or declared lost. Sans-IO.

A hello or a beat may come from before or after whatever crossed it on the way, and a new broker knows nothing at all.
"""

from tokenyard.broker.config import BEAT_S
from tokenyard.broker.jobs import Jobs
from tokenyard.broker.records import Front, Job, Phase, Placement, State, Worker
from tokenyard.broker.wire import Abort, Lost, Placed, WorkerJob

MISSING_S = 2 * BEAT_S
MISSING_BEATS = 2
"""A placement is lost when so old and so often unlisted in a row: one beat may have crossed the Start."""


class Claims:
    """All decisions about claims, over a State that it shares with the rest of the core."""

    def __init__(self, state: State, jobs: Jobs) -> None:
        self._state = state
        self._jobs = jobs

    def claim(self, front: Front, number: int, attempt: int) -> None:
        """The front believes this attempt accepted: confirm it, or remember the claim until settle()."""
        job = front.jobs.get(number)
        if job is None or job.attempt < attempt:
            front.claims[number] = attempt
        elif job.attempt == attempt:
            job.confirmed = True
            self._state.send(front.peer, job.answer)

    def settle(self, front: Front) -> None:
        """All workers have spoken: what this front claims and nobody has is lost."""
        for number, attempt in front.claims.items():
            job = front.jobs.get(number)
            if job is None or job.attempt < attempt:
                self._state.send(front.peer, Lost(number, attempt, job.crashes if job else 0))
        front.claims.clear()

    def drop_unconfirmed(self, front: Front) -> None:
        """The grace is over: what a worker claimed and the front has not spoken for runs for nobody."""
        for job in [job for job in front.jobs.values() if not job.confirmed]:
            self._jobs.fence(job)
            del front.jobs[job.number]

    def reconcile(self, worker: Worker, claims: list[WorkerJob]) -> None:
        """Compare what the worker says it runs with what is placed on it, and heal both sides."""
        placements = worker.placements
        worker.num_claims += 1
        num_listed = 0
        strangers: list[WorkerJob] = []
        for key in claims:
            placement = placements.get(key)
            if placement is None:
                strangers.append(key)
                continue
            num_listed += placement.listed_in != worker.num_claims
            placement.listed_in = worker.num_claims
            if placement.job is None:
                self._state.abort(worker, key)
        if num_listed < len(placements):
            self._free_unlisted(worker)
        for key in strangers:
            if key not in placements:  # it may be listed twice
                self._take_claim(worker, key)
        self._jobs.dispatch_on(worker)

    def _free_unlisted(self, worker: Worker) -> None:
        for key, placement in list(worker.placements.items()):
            num_missed = worker.num_claims - placement.listed_in
            if num_missed < MISSING_BEATS or self._state.now - placement.placed_s <= MISSING_S:
                continue
            del worker.placements[key]
            if job := self._jobs.freed(worker, placement):
                self._jobs.end(job, Lost(job.number, job.attempt, job.crashes))
                self._state.send(job.front.peer, job.answer)

    def _take_claim(self, worker: Worker, key: WorkerJob) -> None:
        """The worker runs an attempt that is not placed on it: take it over if it is the newest, else drop it."""
        state = self._state
        if worker.model is None or worker.stuck:
            if worker.kept_out or worker.stuck:
                state.send(worker.peer, Abort(*key))
            return
        placement = worker.placements[key] = Placement(state.now, worker.num_claims)
        worker.model.num_placed += 1
        job = state.job_of(key)
        in_grace = state.now < state.grace_until_s
        waiting_for_it = job is not None and job.attempt == key.attempt and job.phase is Phase.QUEUED
        newer_than_known = in_grace and (job is None or job.attempt < key.attempt)
        if not (waiting_for_it or newer_than_known):
            state.abort(worker, key)
            return
        if job is not None:
            self._jobs.fence(job)
        front = state.fronts.setdefault(key.front, Front(key.front))
        answer = Placed(key.job, key.attempt, worker.inc)
        crashes = job.crashes if job else 0
        confirmed = waiting_for_it or front.claims.pop(key.job, None) == key.attempt
        job = Job(front, key.job, key.attempt, crashes, Phase.PLACED, answer, worker=worker, confirmed=confirmed)
        job.identity = worker.model.identity
        front.jobs[key.job] = placement.job = job
        state.send(front.peer, answer)
