"""Adapters as requests see them: each is a model of its own, with a card that is its base's under another name."""

from tokenyard.broker.wire import Adapter, Card

NANOSECONDS = 1_000_000_000


def adapter_of(card: Card) -> Adapter | None:
    """The adapter that this card stands for; None for a model's own."""
    return next((one for one in card.adapters if one.name == card.names[0]), None)


def model_of(card: Card) -> str:
    """The id of the model that serves this card: for an adapter its base."""
    adapter = adapter_of(card)
    return adapter.base if adapter else card.names[0]


class AdapterCards:
    """Of all models that one front knows."""

    def __init__(self) -> None:
        self._cards: dict[str, Card] = {}

    def update(self, base: Card) -> None:
        """A model's card tells which adapters it has now."""
        others = {name: card for name, card in self._cards.items() if card.adapters[0].base != base.names[0]}
        self._cards = others | {one.name: _card(base, one) for one in base.adapters}

    def find(self, name: str) -> Card | None:
        return self._cards.get(name)

    def all(self) -> list[Card]:
        return list(self._cards.values())


def _card(base: Card, adapter: Adapter) -> Card:
    created = adapter.stamp // NANOSECONDS or base.created
    return base._replace(names=[adapter.name], created=created, adapters=[adapter])
