"""What all endpoints share: the pool, the tokenizers of its models, and how this front is set up."""

from collections.abc import Awaitable, Callable

from fastapi.responses import Response

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Card
from tokenyard.http.drain import Drain
from tokenyard.http.generation import Generation
from tokenyard.http.library import TokenizerLibrary
from tokenyard.http.mcp.config import read_servers
from tokenyard.http.mcp.hub import Hub
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import EventStream, Format, WholeReply

Hook = Callable[[], Awaitable[None]]

STARTING_RETRY_MS = 1000
"""A worker takes seconds to load; asking once a second costs nobody anything."""


class Service:
    """One front's."""

    def __init__(self, pool: Pool, options: FrontOptions, drain: Drain) -> None:
        self.pool = pool
        self.options = options
        self.drain = drain
        self.library = TokenizerLibrary(options.tool_formats)
        self.hub = Hub(read_servers(options.mcp) if options.mcp else [])
        """The MCP servers; it starts with the front."""
        self._at_start: list[Hook] = []
        self._at_close: list[Hook] = []

    def on_start(self, hook: Hook) -> None:
        """Run this before the first request is served."""
        self._at_start.append(hook)

    def on_close(self, hook: Hook) -> None:
        """Run this after the last request, in the order of registration."""
        self._at_close.append(hook)

    async def start(self) -> None:
        for hook in self._at_start:
            await hook()

    async def close(self) -> None:
        for hook in self._at_close:
            await hook()

    def card(self, model: str) -> Card:
        """Raises TokenyardError: the model is unknown, or none is known yet."""
        if (card := self.pool.find(model)) is not None:
            return card
        if not self.pool.cards():
            raise self.starting()
        words = f"the model {model!r} is not served here; GET /v1/models lists"
        raise TokenyardError("model_not_found", words, "model")

    def listed(self) -> list[Card]:
        """Models, then their adapters."""
        return [*self.pool.cards(), *self.pool.adapter_cards()]

    def only_card(self) -> Card:
        """For requests that may leave the model's name out. Raises TokenyardError where there is not one model."""
        cards = self.pool.cards()
        if not cards:
            raise self.starting()
        if len(cards) > 1:
            names = ", ".join(card.names[0] for card in cards)
            raise TokenyardError("invalid_value", f"model is required, as several are served: {names}", "model")
        return cards[0]

    async def prompter(self, model: str) -> Prompter:
        """Raises TokenyardError as `card` does, and where the model's tokenizer cannot be loaded."""
        card = self.card(model)
        return Prompter(card, await self.library.get(card))

    def reply(self, generation: Generation, form: Format, stream: bool) -> Response:
        """Runs a generation and answers with it."""
        return EventStream(generation, form, self.options, self.pool.cork) if stream else WholeReply(generation, form)

    def starting(self) -> TokenyardError:
        """Why there is no model at all."""
        if not self.pool.connected:
            return TokenyardError("pool_unavailable", "no connection to the broker yet", retry_ms=STARTING_RETRY_MS)
        return TokenyardError("model_loading", "no model is up yet", retry_ms=STARTING_RETRY_MS)
