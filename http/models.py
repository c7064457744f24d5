"""The models that requests may name: up, on their way, or only allowed; and how one that is not up is had.

Knows no HTTP: routes and answers are others'.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Adapter, Card, Loading, Want
from tokenyard.http.adapters import adapter_of, model_of
from tokenyard.http.catalog.catalog import Catalog, Policy
from tokenyard.http.library import TokenizerLibrary
from tokenyard.http.pool import Pool
from tokenyard.http.prompt import Prompter

RETRY_MS = 1000
"""A worker takes seconds to load; asking once a second costs nobody anything."""
RESOLVE_S = 1.0
"""A look at the disk takes milliseconds, a question to the Hub some hundred; after so long the broker has to know."""
STATUS_WAIT_S = 0.5
"""A broker answers within a millisecond; without one, a listing shows what this front knows."""

Entry = dict[str, Any]
"""A model as /v1/models shows it."""


class Wait:
    """What one request waits for, to be shown."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The model's id, once it is known; before, what the request calls it."""
        self.loads = False
        """Whether the model has to be loaded for it."""
        self.progress: Callable[[], Loading | None] = lambda: None


class Models:
    """One front's view of them; all calls on the event loop's thread."""

    def __init__(self, pool: Pool, library: TokenizerLibrary, policy: Policy, given: Iterable[Adapter] = ()) -> None:
        """`given`: adapters that there are, though none of their bases' workers may have told of them yet.

        Raises SetupError if a spec of the policy's is none.
        """
        self._pool = pool
        self._library = library
        self._policy = policy
        self._given = {adapter.name: adapter for adapter in given}
        self.catalog = Catalog(policy)

    def came(self, card: Card) -> None:
        """A worker of a new or changed card is up."""
        self._library.preload(card)
        self._library.forget_all_but(one for one in self._pool.cards() if self._pool.is_up(one.names[0]))

    async def close(self) -> None:
        self.catalog.close()

    # To be asked.

    def at_hand(self, name: str, reads_only: bool = False) -> Prompter | None:
        """What `prompter` would return without waiting."""
        card = self._pool.find(name)
        if card is None or not (reads_only or self._pool.is_up(model_of(card))):
            return None
        loaded = self._library.at_hand(card)
        return Prompter(card, loaded) if loaded is not None else None

    async def prompter(self, wait: Wait, reads_only: bool = False) -> Prompter:
        """The prompter of a model that is up; it is loaded if it must be. Raises TokenyardError: it cannot be had.

        `reads_only`: no job will be made, so that a model that was up will do.
        """
        card = await self._card(wait, reads_only)
        return Prompter(card, await self._library.get(card))

    async def _card(self, wait: Wait, reads_only: bool) -> Card:
        known = self._pool.find(wait.name)
        if known is not None and (reads_only or self._pool.is_up(model_of(known))):
            return known
        name = wait.name
        adapter = adapter_of(known) if known is not None else self._given.get(name)
        try:
            want = await self._want(adapter.base if adapter else name, known)
            wait.name, wait.loads = want.model, True
            wait.progress = lambda: self._pool.loads.progress_of(want.model)
            card = await self._pool.want(want)
        except TokenyardError as error:
            # Nobody may load it, or nobody is there to: where it was up its jobs queue until somebody brings it back.
            if known is None or error.code not in ("model_not_found", "pool_unavailable"):
                raise
            return known
        if adapter is None:
            return card
        if (found := self._pool.find(name)) is None:
            raise TokenyardError("model_not_found", f"the adapter {name} was unloaded meanwhile", "model")
        return found

    async def _want(self, name: str, known: Card | None) -> Want:
        """How a model is asked for. Raises TokenyardError: it may not be, or cannot be served."""
        if known is not None and (want := self._pool.loads.known(model_of(known))):
            return want
        try:
            async with asyncio.timeout(None if known is None else RESOLVE_S):
                target = await self.catalog.resolve(name)
        except TimeoutError:
            raise TokenyardError("pool_unavailable", f"it takes too long to find out what {name!r} is") from None
        except TokenyardError as error:
            if not self._pool.connected or not (self._pool.cards() or self.on_demand):
                raise self.starting() from error
            raise
        return Want(target.id, target.spec, target.weight_bytes, target.cpu_bytes)

    def only_card(self) -> Card:
        """For requests that may leave the model's name out. Raises TokenyardError where there is not one model."""
        cards = self._pool.cards()
        if not cards:
            raise self.starting()
        if len(cards) > 1:
            names = ", ".join(card.names[0] for card in cards)
            raise TokenyardError("invalid_value", f"model is required, as several are served: {names}", "model")
        return cards[0]

    def starting(self) -> TokenyardError:
        """Why there is no model at all."""
        if not self._pool.connected:
            return TokenyardError("pool_unavailable", "no connection to the broker yet", retry_ms=RETRY_MS)
        return TokenyardError("model_loading", "no model is up yet", retry_ms=RETRY_MS)

    @property
    def on_demand(self) -> bool:
        """Whether a request may bring up a model that is not."""
        return bool(self._policy.named or self._policy.allow or self._policy.models_dir)

    @property
    def ready(self) -> bool:
        """Whether a request can be served now, or once its model is loaded."""
        pool, policy = self._pool, self._policy
        if pool.ready:
            return any(self._library.at_hand(card) for card in pool.cards())
        may_swap = bool(policy.allow or policy.models_dir or len(policy.named) > 1)
        # At start the models that were named come first.
        return pool.connected and may_swap and bool(pool.cards() or not policy.named)

    # To be listed.

    async def listing(self) -> list[Entry]:
        """All models: what is up or was, what is on its way, what would be loaded without a download."""
        status, cached = await asyncio.gather(self._pool.status(STATUS_WAIT_S), self.catalog.listing())
        loading = _loading(status or {}) | {one.model: one._asdict() for one in self._pool.loads.progress()}
        cards = [*self._pool.cards(), *self._pool.adapter_cards()]
        entries = {card.names[0]: self._entry(card, loading) for card in cards}
        for listed in cached:
            known = {"created": listed.created, "weight_bytes": listed.size}
            entries.setdefault(listed.id, _bare(listed.id, loading) | known)
        for model in loading:
            entries.setdefault(model, _bare(model, loading))
        for name, one in self._given.items():
            if not self._pool.is_up(one.base):
                more = {"root": one.source, "parent": one.base, "status": _status(one.base, loading)}
                entries.setdefault(name, _bare(name, loading) | more)
        return list(entries.values())

    async def entry(self, name: str) -> Entry:
        """One model by any of its names. Raises TokenyardError: there is none, and none may be loaded."""
        card = self._pool.find(name)
        model = card.names[0] if card else name
        if card is None or not self._pool.is_up(model_of(card)):
            entries = {entry["id"]: entry for entry in await self.listing()}
            if model in entries:
                return entries[model]
        if card is not None:
            return self._entry(card, {})
        want = await self._want(name, None)
        return _bare(want.model, {}) | {"weight_bytes": want.weight_bytes}

    def _entry(self, card: Card, loading: dict[str, Any]) -> Entry:
        """OpenAI's model object, and what else is known; an adapter's has vLLM's `root` and `parent`."""
        adapter, model = adapter_of(card), model_of(card)
        status = {"value": "loaded"} if self._pool.is_up(model) else _status(model, loading)
        return {
            **_bare(card.names[0], loading),
            "created": card.created,
            "root": adapter.source if adapter else card.source,
            "parent": adapter.base if adapter else None,
            "names": card.names,
            "source": card.source,
            "commit": card.commit,
            "revision": card.revision or None,
            "context_length": card.context_length,
            "max_model_len": card.context_length,
            "lane": card.lane,
            "dtype": card.dtype,
            "device": card.device,
            "status": status,
        }


def _loading(status: dict[str, Any]) -> dict[str, Any]:
    """How far each model is that the broker knows to be on its way; at start nobody has asked for them yet."""
    percents = {row["inc"]: row["load"].get("loading_percent") for row in status.get("workers", [])}
    found = {}
    for post in status.get("posts", []):
        percent = percents.get(post["inc"])
        phase = "starting" if percent is None else "loading"
        words = "its process starts" if percent is None else f"{percent} % loaded"
        if not post["leaving"]:
            found[post["model"]] = {"phase": phase, "fraction": (percent or 0) / 100, "words": words}
    return found | {one["model"]: one for one in status.get("loads", [])}


def _bare(model: str, loading: dict[str, Any]) -> Entry:
    """OpenAI's model object of one that was never up."""
    status = _status(model, loading)
    return {"id": model, "object": "model", "created": 0, "owned_by": "tokenyard", "status": status}


def _status(model: str, loading: dict[str, Any]) -> dict[str, Any]:
    """Of a model that is not up, in transformers serve's shape."""
    if one := loading.get(model):
        return {"value": "loading", **{name: one[name] for name in ("phase", "fraction", "words")}}
    return {"value": "unloaded"}
