"""Which workers can take jobs, and what is known of their models and adapters, also of those that are not up any more.

Sans-IO.
"""

from collections import Counter
from collections.abc import KeysView

from tokenyard.broker.wire import Card, WorkerInfo
from tokenyard.http.adapters import AdapterCards, model_of

MAX_CARDS = 256
"""Of models that are not up: more than take turns in a pool, and what a worker makes up in a loop fills no memory."""


class Roster:
    """As one front has heard it from the broker."""

    def __init__(self) -> None:
        self._cards: dict[str, Card] = {}
        """By id. Kept when a model's last worker dies: it may come back."""
        self._adapters = AdapterCards()
        self._up: dict[bytes, str] = {}
        """Workers, and their models' ids."""
        self._num_up: Counter[str] = Counter()
        """How many of them each model has."""

    def come(self, worker: WorkerInfo) -> bool:
        """A worker can take jobs; whether its model is new, or has changed."""
        model = worker.card.names[0]
        known, self._cards[model] = self._cards.get(model), worker.card
        self._adapters.update(worker.card)
        if worker.inc not in self._up:
            self._up[worker.inc] = model
            self._num_up[model] += 1
        if len(self._cards) > MAX_CARDS:
            self._forget()
        return known is None or known._replace(adapters=worker.card.adapters) != worker.card

    def go(self, worker: bytes) -> None:
        """One takes no more."""
        if (model := self._up.pop(worker, None)) is not None:
            self._num_up[model] -= 1
            if not self._num_up[model]:
                del self._num_up[model]

    def all_go(self) -> None:
        """Another broker: it tells anew who is there."""
        self._up.clear()
        self._num_up.clear()

    def _forget(self) -> None:
        """The oldest of too many that are not up."""
        down = [model for model in self._cards if model not in self._num_up]
        for model in down[: max(0, len(down) - MAX_CARDS)]:
            self._adapters.update(self._cards.pop(model)._replace(adapters=[]))

    @property
    def workers(self) -> KeysView[bytes]:
        """Those that can take jobs."""
        return self._up.keys()

    def is_up(self, model: str) -> bool:
        """Whether a worker serves the model of this id."""
        return self._num_up[model] > 0

    def cards(self) -> list[Card]:
        """Models that are up, or were."""
        return list(self._cards.values())

    def adapter_cards(self) -> list[Card]:
        """One for each adapter that may be asked for like a model."""
        return self._adapters.all()

    def card_of(self, job_model: str) -> Card | None:
        """Of the id of a model, or the name of an adapter."""
        return self._cards.get(job_model) or self._adapters.find(job_model)

    def model_of(self, job_model: str) -> str:
        """The id of the model that computes it."""
        card = self.card_of(job_model)
        return model_of(card) if card is not None else job_model

    def find(self, name: str) -> Card | None:
        """By id, name, or either with `@` and the commit, or the revision that the model was asked for by."""
        for card in self._cards.values():
            revisions = [one for one in (card.commit, card.revision) if one]
            if name in card.names or name in (f"{one}@{revision}" for one in card.names for revision in revisions):
                return card
        return self._adapters.find(name)
