"""Which workers serve a model together: those that give the same tokens. Sans-IO.

Two directories of one name, or one whose files changed between two lives of its workers, must not take turns at one
model's requests. The elder card serves. A worker with another one is kept out until the last of the elders has left.
"""

import logging
from collections.abc import Iterator
from itertools import islice
from math import inf

from tokenyard.broker.dispatch import Model
from tokenyard.broker.jobs import Jobs
from tokenyard.broker.loads import Loads
from tokenyard.broker.records import State, Worker, changed_words
from tokenyard.broker.wire import Card, WorkerDown, WorkerUp

log = logging.getLogger("broker")


class Membership:
    """Who joins and leaves the models of a State that it shares with the rest of the core."""

    def __init__(self, state: State, jobs: Jobs, loads: Loads) -> None:
        self._state = state
        self._jobs = jobs
        self._loads = loads
        self._holders: dict[str, dict[bytes, Worker]] = {}
        """Of each name, the workers that serve by it; all of one model, as they do not clash."""
        self._waiting: dict[str, dict[bytes, Worker]] = {}
        """Of each name, the workers that are kept out because others hold it; each stands under one name."""

    def offer(self, worker: Worker, card: Card) -> None:
        """Let it serve, or keep it out with words; elders, known late, take the place of whoever runs nothing yet."""
        for rival in self._rivals(card):
            assert rival.card is not None
            if rival.placements or rival.card.created <= card.created:
                return self._keep_out(worker, card, rival.card)
        freed: set[str] = set()
        for rival in list(self._rivals(card)):
            freed |= self._unseat(rival, card)
        self._join(worker, card)
        return self._reconsider(freed)

    def left(self, worker: Worker) -> None:
        """It is gone: who was kept out because of it, and of it alone, may join."""
        self._stop_waiting(worker)
        if worker.card is not None:
            self._reconsider(self._let_go(worker, worker.card))

    def check(self) -> None:
        """Assert that the indexes agree with the workers."""
        workers = self._state.workers
        for name, holders in self._holders.items():
            assert holders == {inc: one for inc, one in workers.items() if one.card and name in one.card.names}
        waiting = {inc: one for at_name in self._waiting.values() for inc, one in at_name.items()}
        assert waiting == {inc: one for inc, one in workers.items() if one.offer}
        assert all(holders for holders in (*self._holders.values(), *self._waiting.values()))

    def _rivals(self, card: Card) -> Iterator[Worker]:
        """Those that serve by a name of this card and are another model; some more than once."""
        for name in card.names:
            holders = self._holders.get(name, {})
            if any(clash(one.card, card) for one in islice(holders.values(), 1) if one.card):
                yield from holders.values()

    def _let_go(self, worker: Worker, card: Card) -> set[str]:
        """It serves no more; returns the names that are free now."""
        for name in set(card.names):
            del self._holders[name][worker.inc]
        freed = {name for name in card.names if not self._holders[name]}
        for name in freed:
            del self._holders[name]
        return freed

    def _reconsider(self, freed: set[str]) -> None:
        """These names are free: who waited for one may join, elders first."""
        waiting = [one for name in freed for one in self._waiting.get(name, {}).values()]
        for worker in sorted(waiting, key=lambda one: (one.offer.created if one.offer else 0, one.inc)):
            if worker.offer is not None:
                self.offer(worker, worker.offer)
            if worker.model is not None:
                self._jobs.dispatch(worker.model)

    def _join(self, worker: Worker, card: Card) -> None:
        state = self._state
        name = card.names[0]
        worker.card, worker.offer, worker.kept_out = card._replace(adapters=state.adapters_of(name)), None, ""
        self._stop_waiting(worker)
        for one in card.names:
            self._holders.setdefault(one, {})[worker.inc] = worker
        model = state.models.get(name)
        if model is None:
            model = state.models[name] = Model(name, inf)
        if model.identity not in (None, identity(card)):
            # Their prompts were rendered and tokenized for what the model was, and some have begun to be answered.
            self._jobs.reject_queued(model, "pool_unavailable", changed_words(name))
        model.identity = identity(card)
        if not model.workers:
            model.up_since_s = state.now
        model.join(worker)
        self._loads.joined(model)
        log.info("worker %s serves %s", worker.inc.hex(), name)
        state.tell_fronts(WorkerUp(worker.info))

    def _keep_out(self, worker: Worker, card: Card, elder: Card) -> None:
        name = clash(elder, card)
        words = f"the name {name!r} is taken by {_describe(elder)}; this is {_describe(card)}"
        if words != worker.kept_out:
            log.error("worker %s is kept out: %s", worker.inc.hex(), words)
        self._stop_waiting(worker)
        worker.offer, worker.kept_out, worker.waits_for = card, words, name
        self._waiting.setdefault(name, {})[worker.inc] = worker

    def _stop_waiting(self, worker: Worker) -> None:
        if worker.waits_for:
            at_name = self._waiting[worker.waits_for]
            del at_name[worker.inc]
            if not at_name:
                del self._waiting[worker.waits_for]
            worker.waits_for = ""

    def _unseat(self, worker: Worker, elder: Card) -> set[str]:
        """Returns the names that this frees."""
        if worker.model is None:  # it stood under two names of the elder's
            return set()
        assert worker.card is not None
        freed = self._let_go(worker, worker.card)
        worker.model.leave(worker, self._state.now + self._state.load_timeout_s)
        self._state.tell_fronts(WorkerDown(worker.inc))
        card, worker.card = worker.card, None
        self._keep_out(worker, card, elder)
        return freed


def identity(card: Card) -> tuple[str, str]:
    """What makes equal prompts give equal tokens; `dtype` says how weights are quantized, too."""
    return card.commit, card.dtype


def clash(one: Card, other: Card) -> str:
    """A name that would stand for two different models; empty where none does."""
    if one.names[0] == other.names[0] and identity(one) == identity(other):
        return ""
    return next((name for name in one.names if name in other.names), "")


def _describe(card: Card) -> str:
    return f"{card.names[0]} from {card.source} at {card.commit[:12]} in {card.dtype}"
