"""Which worker gets which job of one model: queues, workers by load, known prefixes.

No cost here grows with the number of workers or of queued jobs. Knows nothing of messages, peers or time.
"""

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from math import inf

from tokenyard.broker.records import Job, Lane, Worker
from tokenyard.broker.wire import PLAIN, AdapterKey

NUM_BUCKETS = 256
"""Steps of load share that are told apart: exact up to a capacity of 256, the largest decode bucket planned."""

MAX_PREFIX_BONUS = 0.25
"""Of load share: so much imbalance at most a known prefix may buy (docs/protocol.md, Jobs)."""

MAX_PREFIX_KEYS = 1 << 17
"""Blocks remembered per model: 2 million tokens at 16 a block, in about 40 MB."""

MAX_PREFIX_WORKERS = 4
"""Workers remembered per prefix: a system prompt is soon everywhere, and then least-loaded finds it anyway."""

MOST_SUSPECT_FIRST = tuple(reversed(Lane))

Rank = tuple[bool, int]
"""(fresh, priority): resumed jobs first, then the lower priority."""


class JobQueue:
    """Jobs by rank, then arrival; any of them can leave at once."""

    def __init__(self) -> None:
        self._ranks: list[Rank] = []  # sorted; only those with jobs
        self._jobs: dict[Rank, OrderedDict[Job, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def __bool__(self) -> bool:
        return bool(self._ranks)

    def push(self, job: Job) -> None:
        rank = self._rank(job)
        if rank not in self._jobs:
            insort(self._ranks, rank)
            self._jobs[rank] = OrderedDict()
        self._jobs[rank][job] = None

    def head(self) -> Job:
        return next(iter(self._jobs[self._ranks[0]]))

    def remove(self, job: Job) -> None:
        rank = self._rank(job)
        del self._jobs[rank][job]
        if not self._jobs[rank]:
            del self._jobs[rank]
            del self._ranks[bisect_left(self._ranks, rank)]

    def all(self) -> list[Job]:
        return [job for rank in self._ranks for job in self._jobs[rank]]

    @staticmethod
    def _rank(job: Job) -> Rank:
        assert job.submit is not None
        return job.attempt == 1, job.submit.priority


class LoadIndex:
    """Workers with free credit, by steps of load share; among equals, the one that waited longest.

    A chain of workers for each step, through the workers themselves: in a large pool a job's cost is what it must fetch
    from far memory, and a dict's tables would be more of it.
    """

    def __init__(self) -> None:
        self._first: list[Worker | None] = [None] * (NUM_BUCKETS + 1)
        self._last: list[Worker | None] = [None] * (NUM_BUCKETS + 1)
        self._filled = 0  # bit b: bucket b holds a worker

    def put(self, worker: Worker, bucket: int) -> None:
        before = worker.before = self._last[bucket]
        self._last[bucket] = worker
        if before is None:
            self._first[bucket] = worker
            self._filled |= 1 << bucket
        else:
            before.after = worker

    def remove(self, worker: Worker, bucket: int) -> None:
        before, after = worker.before, worker.after
        worker.before = worker.after = None
        if before is None:
            self._first[bucket] = after
        else:
            before.after = after
        if after is None:
            self._last[bucket] = before
        else:
            after.before = before
        if before is after is None:
            self._filled &= ~(1 << bucket)

    def least(self) -> Worker | None:
        """The least loaded worker."""
        return self._first[(self._filled & -self._filled).bit_length() - 1] if self._filled else None

    def empty(self) -> Worker | None:
        """A worker on which nothing runs."""
        return self._first[0]

    def all(self) -> dict[bytes, int]:
        """The bucket of each that is there."""
        found: dict[bytes, int] = {}
        for bucket, worker in enumerate(self._first):
            assert (worker is not None) == bool(self._filled >> bucket & 1)
            before = None
            while worker is not None:
                assert worker.before is before
                found[worker.inc] = bucket
                before, worker = worker, worker.after
            assert self._last[bucket] is before
        return found


class PrefixMemory:
    """Which workers got which prompt prefix, least recently used forgotten first."""

    def __init__(self, limit: int = MAX_PREFIX_KEYS) -> None:
        self._limit = limit
        self._workers: OrderedDict[bytes, tuple[Worker, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._workers)

    def longest(self, keys: list[bytes]) -> tuple[int, tuple[Worker, ...]]:
        """How many of the chained keys are known, and the workers that got the last known one; some may be gone.

        `remember` touches the shallow keys of a chain last, so a known key has all its predecessors: bisect.
        """
        workers = self._workers
        known, unknown = 0, len(keys) + 1
        while unknown - known > 1:
            middle = (known + unknown) // 2
            if keys[middle - 1] in workers:
                known = middle
            else:
                unknown = middle
        return known, workers[keys[known - 1]] if known else ()

    def remember(self, keys: list[bytes], worker: Worker) -> None:
        workers = self._workers
        alone: tuple[Worker, ...] = (worker,)
        before, after = alone, alone
        for key in reversed(keys):
            known = workers.get(key)
            if known is None:
                workers[key] = alone
                continue
            if known is not before:  # keys that came together before share what is known of them
                before = known
                after = (worker, *[other for other in known if other is not worker][: MAX_PREFIX_WORKERS - 1])
            workers[key] = after
            workers.move_to_end(key)
        while len(workers) > self._limit:
            workers.popitem(last=False)


class Model:
    """One model: its workers, its queues, and the choice between them."""

    def __init__(self, name: str, known_until_s: float) -> None:
        self.name = name
        self.served = False
        """Whether a worker was ever seen with it."""
        self.identity: tuple[str, str] | None = None
        """Of its workers' cards, now or lately (membership.py)."""
        self.known_until_s = known_until_s
        """Without a worker, its jobs wait so long; inf while it has one."""
        self.up_since_s = -inf
        """When the first of its present workers came."""
        self.used_s = -inf
        """When a job of it was last placed or freed."""
        self.workers: dict[bytes, Worker] = {}
        self.queues = {lane: JobQueue() for lane in Lane}
        self.num_queued = 0
        self.num_placed = 0
        self._by_load = {lane: LoadIndex() for lane in Lane}
        self._prefixes = PrefixMemory()
        self._num_holders: Counter[AdapterKey] = Counter()
        """Of each adapter, how many of the workers have it."""
        self._suspect_workers: set[bytes] = set()
        self._reserved: Worker | None = None
        """It takes nothing more until it is empty: suspects wait for it."""

    def join(self, worker: Worker) -> None:
        worker.model = self
        self.workers[worker.inc] = worker
        self.num_placed += len(worker.placements)
        self._num_holders.update(worker.adapters)
        self.served, self.known_until_s = True, inf
        self.update(worker)

    def leave(self, worker: Worker, known_until_s: float) -> None:
        worker.model = None
        self.update(worker)
        del self.workers[worker.inc]
        self._suspect_workers.discard(worker.inc)
        self.num_placed -= len(worker.placements)
        self._count_holders(worker, set())
        if self._reserved is worker:
            self._reserved = None
        if not self.workers:
            self.known_until_s = known_until_s

    def hold(self, worker: Worker, adapters: set[AdapterKey]) -> None:
        """It has these from now on."""
        self._count_holders(worker, adapters)
        worker.adapters = adapters

    def enqueue(self, job: Job) -> None:
        self.queues[job.lane].push(job)
        self.num_queued += 1

    def dequeue(self, job: Job) -> None:
        self.queues[job.lane].remove(job)
        self.num_queued -= 1

    def waiting(self) -> list[Job]:
        """Its queued jobs."""
        return [job for queue in self.queues.values() for job in queue.all()]

    @property
    def is_idle(self) -> bool:
        """Nothing runs, nothing waits."""
        return not self.num_placed and not self.num_queued

    def update(self, worker: Worker) -> None:
        """Put the worker where its state and load now belong; call it after each change of either."""
        if not worker.placements:
            worker.lane = Lane.CLEAN
            self._suspect_workers.discard(worker.inc)
        lane, bucket = self._lane_open_to(worker), _bucket(worker)
        if lane is worker.listed and bucket == worker.bucket:
            return
        if worker.listed is not None:
            self._by_load[worker.listed].remove(worker, worker.bucket)
        worker.listed, worker.bucket = lane, bucket
        if lane is not None:
            self._by_load[lane].put(worker, bucket)

    def check(self) -> None:
        """Assert that all sums and indexes agree with the workers."""
        assert self.num_placed == sum(len(worker.placements) for worker in self.workers.values())
        assert self.num_queued == sum(map(len, self.queues.values()))
        assert self._num_holders == Counter(key for worker in self.workers.values() for key in worker.adapters)
        assert self._reserved is None or self._reserved.inc in self.workers
        suspect = {inc for inc, worker in self.workers.items() if worker.lane is not Lane.CLEAN}
        assert suspect == self._suspect_workers
        for worker in self.workers.values():
            assert worker.model is self
            assert worker.listed is self._lane_open_to(worker)
            assert worker.listed is None or worker.bucket == _bucket(worker)
        for lane, index in self._by_load.items():
            assert index.all() == {inc: one.bucket for inc, one in self.workers.items() if one.listed is lane}

    def _lane_open_to(self, worker: Worker) -> Lane | None:
        """Whose jobs it takes now."""
        if worker.model is not self or worker.state != "ready" or not worker.credit:
            return None
        if worker.placements and (worker.lane is Lane.ALONE or worker is self._reserved):
            return None
        return worker.lane

    def _count_holders(self, worker: Worker, adapters: set[AdapterKey]) -> None:
        """It had those that it has; now it has these."""
        self._num_holders.update(adapters - worker.adapters)
        for gone in worker.adapters - adapters:
            self._num_holders[gone] -= 1
            if not self._num_holders[gone]:
                del self._num_holders[gone]

    def next_match(self) -> tuple[Job, Worker] | None:
        """The next job that can run and its worker; suspects first, or they would wait for an idle moment for ever."""
        if not self.num_queued and self._reserved is None:
            return None
        for lane in MOST_SUSPECT_FIRST:
            if lane is Lane.CLEAN:
                self._reserve()
            if match := self._match(self.queues[lane]):
                return match
        return None

    def _match(self, queue: JobQueue) -> tuple[Job, Worker] | None:
        """The head and its worker; where only its adapter keeps it from one, the next that none keeps."""
        if not queue:
            return None
        head = queue.head()
        if worker := self._pick(head):
            return head, worker
        tried = {head.adapter}
        for job in () if self._all_hold(head) else queue.all():
            if job.adapter in tried:
                continue
            if worker := self._pick(job):
                return job, worker
            if self._all_hold(job):
                break
            tried.add(job.adapter)
        return None

    def _all_hold(self, job: Job) -> bool:
        """Whether every worker has what it is to be computed with, as is nearly always so."""
        return job.adapter == PLAIN or self._num_holders[job.adapter] == len(self.workers)

    def _pick_holder(self, job: Job) -> Worker | None:
        """Where some workers lack its adapter: the least loaded of the others."""
        holders = [worker for worker in self.workers.values() if job.adapter in worker.adapters]
        like = [worker for worker in holders if worker.listed is job.lane is not Lane.ALONE]
        if job.lane is not Lane.CLEAN:
            like = like or [worker for worker in holders if worker.listed is not None and not worker.placements]
        return min(like, key=lambda worker: worker.bucket, default=None)

    def _pick(self, job: Job) -> Worker | None:
        if not self._all_hold(job):
            return self._pick_holder(job)
        clean = self._by_load[Lane.CLEAN]
        if job.lane is Lane.CLEAN:
            least = clean.least()
            return least and self._pick_by_prefix(job, least)
        if job.lane is Lane.SUSPECT and (worker := self._by_load[Lane.SUSPECT].least()):
            return worker
        return clean.empty()

    def _pick_by_prefix(self, job: Job, least: Worker) -> Worker:
        """The least loaded worker, or one whose known prefix outweighs its load."""
        assert job.submit is not None
        keys = job.submit.prefix_keys
        num_known, knowing = self._prefixes.longest(keys)
        if not num_known or least in knowing:
            return least
        best, at_most = least, least.bucket + NUM_BUCKETS * MAX_PREFIX_BONUS * num_known / len(keys)
        for worker in knowing:
            if worker.model is self and worker.listed is Lane.CLEAN and worker.bucket <= at_most:
                best, at_most = worker, worker.bucket - 1
        return best

    def note_placed(self, job: Job, worker: Worker) -> None:
        """Call it with the placement made."""
        assert job.submit is not None
        worker.lane = job.lane
        if job.lane is not Lane.CLEAN:
            self._suspect_workers.add(worker.inc)
        if worker is self._reserved:
            self._reserved = None
        self._prefixes.remember(job.submit.prefix_keys, worker)
        self.num_placed += 1
        self.update(worker)

    def note_freed(self, worker: Worker) -> None:
        """Call it with the placement removed."""
        self.num_placed -= 1
        self.update(worker)

    def _reserve(self) -> None:
        """Where suspects wait and no worker runs any, let one run empty for them; else let go of it."""
        if self._reserved is not None and self._reserved.state != "ready":
            self._reserved = None
        suspects_wait = bool(self.queues[Lane.SUSPECT] or self.queues[Lane.ALONE])
        wanted = suspects_wait and not self._suspect_workers
        if wanted == (self._reserved is not None):
            return
        released, self._reserved = self._reserved, self._by_load[Lane.CLEAN].least() if wanted else None
        for worker in (released, self._reserved):
            if worker is not None:
                self.update(worker)


def _bucket(worker: Worker) -> int:
    """The share of its capacity that is taken, in steps that LoadIndex tells apart, rounded up."""
    return -(-NUM_BUCKETS * len(worker.placements) // worker.capacity)
