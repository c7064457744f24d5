"""Which workers serve a model together: those that give the same tokens. Sans-IO.

Two directories of one name, or one whose files changed between two lives of its workers, must not take turns at one
model's requests. The elder card serves. A worker with another one is kept out until the last of the elders has left.
"""

import logging
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

    def offer(self, worker: Worker, card: Card) -> None:
        """Let it serve, or keep it out with words; elders, known late, take the place of whoever runs nothing yet."""
        rivals = [one for one in self._state.workers.values() if one.card is not None and clash(one.card, card)]
        for rival in rivals:
            assert rival.card is not None
            if rival.placements or rival.card.created <= card.created:
                return self._keep_out(worker, card, rival.card)
        for rival in rivals:
            self._unseat(rival, card)
        self._join(worker, card)
        return self.reconsider() if rivals else None

    def reconsider(self) -> None:
        """Somebody has left: who was kept out because of it may join, elders first."""
        waiting = [(one.offer.created, one.inc, one) for one in self._state.workers.values() if one.offer]
        for _, _, worker in sorted(waiting):
            if worker.offer is not None:
                self.offer(worker, worker.offer)
            if worker.model is not None:
                self._jobs.dispatch(worker.model)

    def _join(self, worker: Worker, card: Card) -> None:
        state = self._state
        name = card.names[0]
        worker.card, worker.offer, worker.kept_out = card._replace(adapters=state.adapters_of(name)), None, ""
        model = state.models.setdefault(name, Model(name, inf))
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
        words = f"the name {clash(elder, card)!r} is taken by {_describe(elder)}; this is {_describe(card)}"
        if words != worker.kept_out:
            log.error("worker %s is kept out: %s", worker.inc.hex(), words)
        worker.offer, worker.kept_out = card, words

    def _unseat(self, worker: Worker, elder: Card) -> None:
        assert worker.model is not None
        assert worker.card is not None
        worker.model.leave(worker, self._state.now + self._state.load_timeout_s)
        self._state.tell_fronts(WorkerDown(worker.inc))
        card, worker.card = worker.card, None
        self._keep_out(worker, card, elder)


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
