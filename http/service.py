"""What all endpoints share: the pool, the tokenizers of its models, and how this front is set up."""

from collections.abc import Awaitable, Callable
from functools import partial

from fastapi.responses import Response

from tokenyard.http.drain import Drain
from tokenyard.http.generation import Generation
from tokenyard.http.library import TokenizerLibrary
from tokenyard.http.mcp.config import read_servers
from tokenyard.http.mcp.hub import Hub
from tokenyard.http.models import Models, Wait
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import EventStream, Format, WholeReply
from tokenyard.http.waiting import Failure, WaitingReply

Hook = Callable[[], Awaitable[None]]
Work = Callable[[Prompter], Awaitable[Response]]
"""What is left to do of a request once its model is there."""


class Service:
    """One front's."""

    def __init__(self, pool: Pool, options: FrontOptions, drain: Drain) -> None:
        self.pool = pool
        self.options = options
        self.drain = drain
        self.library = TokenizerLibrary(options.tool_formats)
        self.models = Models(pool, self.library, options.models, options.loras.given)
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

    async def answer(
        self, model: str, work: Work, failure: Failure | None = None, *, reads_only: bool = False
    ) -> Response:
        """Do a request's work once its model is up, which may have to be loaded for it.

        `failure`: how the answer, a stream, tells of one; None: it does not stream. `reads_only`: as in Models.
        Raises TokenyardError, or answers so.
        """
        if (prompter := self.models.at_hand(model, reads_only)) is not None:
            return await work(prompter)
        wait = Wait(model)
        awaited = partial(self.models.prompter, wait, reads_only)
        return WaitingReply(awaited, work, wait, failure, self.options.header_wait_s)

    def reply(self, generation: Generation, form: Format, stream: bool) -> Response:
        """Runs a generation and answers with it."""
        return EventStream(generation, form, self.options, self.pool.cork) if stream else WholeReply(generation, form)
