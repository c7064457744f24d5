"""Which adapters each model has: loaded into every worker of it, taken out again, found in hellos. Sans-IO.

An adapter is *offered* once requests may ask for it; `State.adapters` holds those. One that a front has asked for is
*coming* until all ready workers of its base have it, and takes the place of the one of its name then. Workers are told
again and again what they lack, until their cards show it; docs/protocol.md, "Adapters", has the whole story. Must not
know how jobs are placed (jobs.py, dispatch.py).
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from tokenyard.broker.jobs import Jobs
from tokenyard.broker.recent import MAX_REQUESTS, Asker, Recent
from tokenyard.broker.records import Offered, State, Worker
from tokenyard.broker.wire import (
    Adapter,
    AdapterFailed,
    AddAdapter,
    Answer,
    LoadAdapter,
    RemoveAdapter,
    UnloadAdapter,
    WorkerUp,
)

REPEAT_S = 1.0
"""Between two orders to a worker that say the same: reading an adapter of 100 MB takes about a tenth of a second."""
RETRY_S = 10.0
"""After a failure, an adapter that is offered is tried again: a disk or the Hub may be back."""
MAX_WORDS = 1000
"""Of an answer that is remembered: names in it may be as long as a frame."""
MAX_DROPPED = 4096
"""Adapters known to be gone: a hello that was sent before may still name one, some milliseconds later."""

log = logging.getLogger("broker")

ADAPTER_BYTES = 20
"""Of one adapter's card, beside its texts."""
MAX_ADAPTERS_BYTES = 192 << 10
"""Of all of one model, as its workers' cards tell of them: about a thousand. Sixteen such cards fit in one frame."""

Stamped = tuple[str, int]
"""Name and stamp."""


@dataclass(slots=True)
class _Change:
    """An adapter that is coming or leaving, and who waits for it."""

    adapter: Adapter
    askers: list[Asker] = field(default_factory=list)


class Adapters:
    """All adapters, over the state that the rest of the core shares."""

    def __init__(self, state: State, jobs: Jobs, given: Iterable[Adapter] = ()) -> None:
        """`given`: offered from the start."""
        self._state = state
        self._jobs = jobs
        self._coming: dict[str, _Change] = {}
        self._leaving: dict[Stamped, _Change] = {}
        self._dropped: OrderedDict[Stamped, None] = OrderedDict()
        self._due_s: dict[tuple[bytes, type, Stamped], float] = {}
        """By worker, order and adapter: when it may be told again."""
        self._holding: dict[bytes, Worker] = {}
        """Workers that have any."""
        self._answers: Recent[Answer] = Recent()
        for adapter in given:
            state.adapters[adapter.name] = Offered(adapter)

    # ---- from fronts

    def add(self, peer: bytes, message: AddAdapter) -> None:
        """Begin to load it everywhere, or tell why not; a repeat waits on, or gets the answer."""
        state, adapter, asker = self._state, message.adapter, (peer, message.req)
        if self._answered(asker):
            return
        coming = self._coming.get(adapter.name)
        offered = state.adapters.get(adapter.name)
        if coming is not None and coming.adapter.stamp == adapter.stamp:
            self._wait(coming, asker)
        elif offered is not None and offered.adapter.stamp == adapter.stamp:
            # the broker is new, and found it in a worker's hello: the others are told
            if all(offered.adapter.key in worker.adapters for worker in self._ready(adapter.base)):
                self._answer([asker])
        elif coming is not None:
            self._answer([asker], "pool_unavailable", f"the lora adapter {adapter.name!r} is being loaded already")
        elif words := self._refusal(message):
            self._answer([asker], "invalid_value", words)
        else:
            self._coming[adapter.name] = coming = _Change(adapter._replace(version=""), [asker])
            self._tell_all(adapter.base)
            self._settle(coming)

    def remove(self, peer: bytes, message: RemoveAdapter) -> None:
        """Offer it no more; answered once no worker has it for new jobs."""
        state, asker, name = self._state, (peer, message.req), message.name
        if self._answered(asker):
            return None
        if leaving := next((one for one in self._leaving.values() if asker in one.askers), None):
            return self._settle_leaving(leaving)
        offered = state.adapters.get(name)
        if offered is None:
            return self._answer([asker], "model_not_found", f"the lora adapter {name!r} cannot be found")
        if coming := self._coming.get(name):
            self._fail(coming, "pool_unavailable", f"the lora adapter {name!r} was unloaded meanwhile")
        del state.adapters[name]
        self._drop(offered.adapter)
        log.info("adapter %s of %s is unloaded", name, offered.adapter.base)
        if model := state.models.get(offered.adapter.base):
            words = f"the adapter {name!r} was unloaded meanwhile"
            self._jobs.reject_queued(model, "model_not_found", words, name)
        leaving = self._leaving[name, offered.adapter.stamp] = _Change(offered.adapter, [asker])
        self._show(offered.adapter.base)
        return self._settle_leaving(leaving)

    # ---- from workers

    def learn(self, base: str, held: list[Adapter]) -> None:
        """What a worker of this model has: a new broker did not know of it, nor anybody which version it would be."""
        for adapter in held:
            offered = self._state.adapters.get(adapter.name)
            coming = self._coming.get(adapter.name)
            is_coming = coming is not None and coming.adapter.stamp == adapter.stamp
            namesake = self._state.models.get(adapter.name)
            is_model = namesake is not None and namesake.identity is not None  # its requests must not go elsewhere
            if adapter.base != base or is_model or is_coming or (adapter.name, adapter.stamp) in self._dropped:
                continue
            is_newer = (offered is None and not self._overfills(adapter)) or (
                offered is not None and adapter.stamp > offered.adapter.stamp
            )
            if is_newer or (offered and adapter.stamp == offered.adapter.stamp and not offered.adapter.version):
                self._offer(adapter)

    def heard(self, worker: Worker, held: list[Adapter]) -> None:
        """What it has now. To be called after `learn`."""
        worker.held = held
        adapters = {adapter.key for adapter in held}
        if held:
            self._holding[worker.inc] = worker
        else:
            self._holding.pop(worker.inc, None)
        if worker.model is None:
            worker.adapters = adapters
            return
        worker.model.hold(worker, adapters)
        for adapter in held:
            if (offered := self._state.adapters.get(adapter.name)) and offered.adapter.key == adapter.key:
                offered.words = ""
        self._tell(worker)
        self._settle_all()
        self._jobs.dispatch(worker.model)

    def failed(self, worker: Worker, message: AdapterFailed) -> None:
        """It cannot load one that it was told to."""
        coming, offered = self._coming.get(message.name), self._state.adapters.get(message.name)
        if coming is not None and coming.adapter.stamp == message.stamp:
            self._fail(coming, message.code, message.words, message.param)
        elif offered is not None and offered.adapter.stamp == message.stamp:
            self._fail_offered(worker, offered, message)

    def worker_gone(self, worker: Worker) -> None:
        """Nobody waits for it any more."""
        self._holding.pop(worker.inc, None)
        if self._due_s:
            self._due_s = {key: due_s for key, due_s in self._due_s.items() if key[0] != worker.inc}
        self._settle_all()

    # ---- by time

    def sweep(self) -> None:
        """Say again what was not heeded."""
        for worker in self._concerned():
            if worker.model is not None:
                self.learn(worker.model.name, worker.held)
            self._tell(worker)
        self._settle_all()
        self._answers.forget(self._state.now)

    def _concerned(self) -> list[Worker]:
        """Workers of models that have adapters, and those that hold any; of a pool without adapters nobody."""
        bases = {one.adapter.base for one in self._state.adapters.values()}
        bases |= {one.adapter.base for one in self._coming.values()}
        models = [self._state.models[base] for base in bases if base in self._state.models]
        concerned = {inc: worker for model in models for inc, worker in model.workers.items()}
        return list((concerned | self._holding).values())

    def describe(self) -> list[dict[str, object]]:
        """For Status."""
        offered = [
            (one.adapter, "loaded" if one.adapter.version else "loading", one.words)
            for one in self._state.adapters.values()
        ]
        coming = [(one.adapter, "loading", "") for one in self._coming.values()]
        return [
            {**one._asdict(), "state": "failed" if words else state, "words": words}
            for one, state, words in (*offered, *coming)
        ]

    def check(self) -> None:
        """Assert what must hold after every event."""
        state = self._state
        for worker in state.workers.values():
            if worker.card is not None:
                assert worker.card.adapters == state.adapters_of(worker.card.names[0])
        for model in state.models.values():
            for job in [job for queue in model.queues.values() for job in queue.all()]:
                offered = state.adapters.get(job.adapter.name)
                assert not job.adapter.name or (offered and offered.adapter.key == job.adapter), "it waits for nothing"
        for name, coming in self._coming.items():
            assert coming.adapter.name == name
            assert name not in state.adapters or state.adapters[name].adapter.stamp != coming.adapter.stamp

    # ---- steps

    def _refusal(self, message: AddAdapter) -> str:
        """Why it cannot even be tried; empty where it can."""
        state, adapter = self._state, message.adapter
        offered = state.adapters.get(adapter.name)
        if self._overfills(adapter):
            return f"{adapter.base} has as many lora adapters as it may: their names take {MAX_ADAPTERS_BYTES:,} bytes"
        if any(worker.card and adapter.name in worker.card.names for worker in state.workers.values()):
            return f"{adapter.name!r} is the name of a model"
        if offered is not None and offered.adapter.base != adapter.base:
            return f"{adapter.name!r} is an adapter of {offered.adapter.base}"
        if offered is not None and not message.replace:
            return (
                f"The lora adapter {adapter.name!r} has already been loaded. If you want to load the adapter in place, "
                "set 'load_inplace' to True."
            )
        return ""

    def _overfills(self, adapter: Adapter) -> bool:
        """Whether the cards of its model's workers would be too long with it."""
        others = [*self._state.adapters_of(adapter.base), *(one.adapter for one in self._coming.values())]
        texts = (one.name + one.base + one.source + one.version for one in (*others, adapter))
        return sum(ADAPTER_BYTES + len(text.encode(errors="replace")) for text in texts) > MAX_ADAPTERS_BYTES

    def _ready(self, base: str) -> list[Worker]:
        model = self._state.models.get(base)
        return [worker for worker in model.workers.values() if worker.state == "ready"] if model else []

    def _offer(self, adapter: Adapter) -> None:
        """From now on this is what its name stands for."""
        state = self._state
        old = state.adapters.get(adapter.name)
        state.adapters[adapter.name] = Offered(adapter)
        if old is not None and old.adapter.stamp != adapter.stamp:
            self._drop(old.adapter)
        log.info("adapter %s of %s has version %s", adapter.name, adapter.base, adapter.version[:12] or "unknown")
        self._jobs.readapt(adapter)
        self._show(adapter.base)

    def _show(self, base: str) -> None:
        """Have the cards of a model's workers tell what is offered, and the workers follow it."""
        if model := self._state.models.get(base):
            for worker in model.workers.values():
                assert worker.card is not None
                worker.card = worker.card._replace(adapters=self._state.adapters_of(base))
                self._state.tell_fronts(WorkerUp(worker.info))
        self._tell_all(base)

    def _tell_all(self, base: str) -> None:
        for worker in self._ready(base):
            self._tell(worker)

    def _tell(self, worker: Worker) -> None:
        """What it lacks, and what it has too much, unless it was told just now."""
        if worker.model is None or worker.state != "ready":
            return
        base = worker.model.name
        coming = [one.adapter for one in self._coming.values() if one.adapter.base == base]
        wanted = self._state.adapters_of(base) + coming
        for adapter in wanted:
            fits = (held.version for held in worker.held if _stamped(held) == _stamped(adapter))
            if not any(adapter.version in ("", version) for version in fits):
                self._order(worker, adapter, LoadAdapter(adapter))
        names = {_stamped(adapter) for adapter in wanted}
        for held in worker.held:
            if _stamped(held) not in names:
                self._order(worker, held, UnloadAdapter(*_stamped(held)))

    def _order(self, worker: Worker, adapter: Adapter, order: LoadAdapter | UnloadAdapter) -> None:
        key = (worker.inc, type(order), _stamped(adapter))
        if self._due_s.get(key, -inf) <= self._state.now:
            self._due_s[key] = self._state.now + REPEAT_S
            self._state.send(worker.peer, order)

    def _settle_all(self) -> None:
        for change in list(self._coming.values()):
            self._settle(change)
        for change in list(self._leaving.values()):
            self._settle_leaving(change)

    def _settle(self, coming: _Change) -> None:
        """Offer it, if all who are to have it have it."""
        adapter = coming.adapter
        if not (workers := self._ready(adapter.base)):
            return self._fail(coming, "pool_unavailable", f"no worker of {adapter.base} is up")
        found = [one for worker in workers for one in worker.held if _stamped(one) == _stamped(adapter)]
        if len({one.version for one in found}) > 1:
            return self._fail(coming, "pool_unavailable", "its files changed while workers loaded it: load it again")
        if len(found) < len(workers):
            return None
        del self._coming[adapter.name]
        self._offer(found[0])
        return self._answer(coming.askers)

    def _settle_leaving(self, leaving: _Change) -> None:
        stamped = _stamped(leaving.adapter)
        if not any(stamped == _stamped(one) for worker in self._ready(leaving.adapter.base) for one in worker.held):
            self._leaving.pop(stamped, None)
            self._answer(leaving.askers)

    def _fail(self, coming: _Change, code: str, words: str, param: str = "") -> None:
        """It does not come: those that have it already let go of it."""
        adapter = coming.adapter
        log.error("adapter %s of %s cannot be loaded: %s", adapter.name, adapter.base, words)
        del self._coming[adapter.name]
        self._drop(adapter)
        self._tell_all(adapter.base)
        self._answer(coming.askers, code, words, param)

    def _fail_offered(self, worker: Worker, offered: Offered, message: AdapterFailed) -> None:
        """It was to come back with one that others may still have."""
        adapter = offered.adapter
        key = (worker.inc, LoadAdapter, _stamped(adapter))
        self._due_s[key] = self._state.now + RETRY_S
        log.error("worker %s cannot load the adapter %s: %s", worker.inc.hex(), adapter.name, message.words)
        if any(adapter.key in other.adapters for other in self._ready(adapter.base)):
            return
        if adapter.version:  # nobody has this version any more: what is there now counts
            del self._due_s[key]
            self._offer(adapter._replace(version=""))
        elif model := self._state.models.get(adapter.base):
            offered.words = f"the adapter {adapter.name!r} cannot be loaded: {message.words}"
            self._jobs.reject_queued(model, message.code, offered.words, adapter.name)

    def _drop(self, adapter: Adapter) -> None:
        self._dropped[_stamped(adapter)] = None
        if len(self._dropped) > MAX_DROPPED:
            self._dropped.popitem(last=False)

    def _wait(self, change: _Change, asker: Asker) -> None:
        if asker not in change.askers and len(change.askers) < MAX_REQUESTS:  # the others ask again
            change.askers.append(asker)

    def _answered(self, asker: Asker) -> bool:
        if known := self._answers.get(asker):
            self._state.send(asker[0], known)
        return known is not None

    def _answer(self, askers: list[Asker], code: str = "", words: str = "", param: str = "") -> None:
        body = {name: value for name, value in (("code", code), ("param", param)) if value}
        for asker in askers:
            peer, req = asker
            answer = Answer(req, words[:MAX_WORDS], body)
            self._answers.hear(asker, answer, self._state.now)
            self._state.send(peer, answer)


def _stamped(adapter: Adapter) -> Stamped:
    return adapter.name, adapter.stamp
