"""A generation of several turns: performs what the loop decides, and looks to its answer's format like one turn.

The model's turns follow each other as generations of their own; between them, tools run. What the client sees of it all
are parts (turns.py) in one stream. Knows the pool, the hub and the prompt; no HTTP.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.chat import ChatPlan, plan_chat, read_piece
from tokenyard.http.choice import Choice, Piece
from tokenyard.http.formats.values import dumps
from tokenyard.http.generation import Generation, Listener
from tokenyard.http.mcp.hub import Hub
from tokenyard.http.mcp.loop import MAX_CALLS, REQUEST_S, Action, Ask, End, Loop, Refuse, Run
from tokenyard.http.mcp.results import as_text, cut, disarm, disarm_all
from tokenyard.http.mcp.sdk import McpFailure
from tokenyard.http.mcp.selection import Selected
from tokenyard.http.pool import Pool
from tokenyard.http.prompt import Prompter
from tokenyard.http.schemas import ChatRequest
from tokenyard.http.turns import (
    ApprovalAsked,
    Call,
    CallArguments,
    CallBegun,
    CallEnded,
    Part,
    ServerCallBegun,
    ServerCallEnded,
    Text,
    Thought,
    gather,
)

log = logging.getLogger(__name__)

Planner = Callable[[Any, Prompter], Awaitable[ChatPlan]]
"""Renders an API's request for a first turn."""
Renew = Callable[[], Awaitable[Prompter]]
"""Gives the prompter anew for a later turn: while tools ran, the model may have made room for another."""

RESULT_SHARE = 0.5
"""Of the room that is left in the context, a result may take so much: the rest is for the next and for the answer."""


class Relay:
    """Stands where a format has its parser of one turn, and gives it the parts of all turns."""

    thinking = False
    settled = False

    def __init__(self) -> None:
        self.num_calls = 0
        """Calls that are for the client."""
        self._parts: list[Part] = []

    def add(self, parts: Sequence[Part]) -> None:
        self._parts += parts
        self.num_calls += sum(isinstance(part, CallBegun) for part in parts)

    def push(self, text: str) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def flush(self) -> list[Part]:
        return self.push("")


class LoopGeneration(Generation):
    """One request's turns and calls. Make it with `prepare`."""

    def __init__(
        self,
        pool: Pool,
        hub: Hub,
        prompter: Prompter,
        request: ChatRequest,
        selected: Selected,
        loop: Loop,
        first: ChatPlan | None,
        decided: tuple[Sequence[Call], Sequence[Call]],
        renew: Renew,
    ) -> None:
        super().__init__(pool, first.plans if first else [])
        self.relay = Relay()
        self._hub = hub
        self._prompter = prompter
        self._renew = renew
        self._request = request
        self._selected = selected
        self._loop = loop
        self._theirs = frozenset(tool["function"]["name"] for tool in request.tools) - selected.tools.keys()
        self._first = first
        self._decided = decided
        self._turn: Generation | None = None
        """The model's turn that is being spoken."""
        self._parser: Any = None
        self._parts: list[Part] = []
        """Of this turn so far."""
        self._begun = False
        self._ended = False
        self._used: dict[str, Any] = {}
        """Usage of the turns before this one."""
        self._num_last = 0
        """Tokens of the last turn, its prompt included, and of the results that have come since."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def prepare(
        cls,
        pool: Pool,
        hub: Hub,
        prompter: Prompter,
        request: ChatRequest,
        selected: Selected,
        renew: Renew,
        *,
        returns_mixed: bool = False,
        max_calls: int | None = None,
        approved: Sequence[Call] = (),
        denied: Sequence[Call] = (),
        plan: Planner = plan_chat,
    ) -> "LoopGeneration":
        """Render the first turn, so that what is wrong with a request is told before anything runs.

        `request.tools` are the client's own. `approved` and `denied`: calls of an earlier answer that a person has
        decided about; they run before the first turn. Raises TokenyardError naming the field.
        """
        theirs = [tool["function"]["name"] for tool in request.tools]
        ours = disarm_all(selected.function_tools(), prompter.loaded.marks)  # descriptions come from servers, too
        request = replace(request, tools=[*request.tools, *ours])
        loop = Loop(
            selected.tools,
            theirs,
            to_approve=selected.to_approve,
            returns_mixed=returns_mixed,
            max_calls=MAX_CALLS if max_calls is None else min(max_calls, MAX_CALLS),
        )
        first = await plan(request, prompter)
        return cls(pool, hub, prompter, request, selected, loop, first, (approved, denied), renew)

    # What formats and replies ask of a generation.

    @property
    def finished(self) -> bool:
        return self._ended

    @property
    def usage(self) -> dict[str, Any]:
        """Summed over all turns."""
        return _sum(self._used, self._turn.usage) if self._turn is not None else self._used or super().usage

    def start(self, listener: Listener) -> None:
        self._listener = listener
        self._timer = asyncio.get_running_loop().call_later(REQUEST_S, self._out_of_time)
        self.relay.add(self._selected.listed)
        self._perform(self._loop.begin(*self._decided))

    def pause(self, *, on: bool) -> None:
        super().pause(on=on)
        if self._turn is not None:
            self._turn.pause(on=on)

    def cancel(self, code: str = "cancelled") -> None:
        """End the turn and every call that still runs. `code`: as a Generation takes it."""
        self._listener = None
        if self._timer is not None:
            self._timer.cancel()
        if self._turn is not None:
            self._turn.cancel(code)
        for task in self._tasks:
            task.cancel()

    # What the loop decides.

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Ask():
                    self._spawn(self._speak(action))
                case Run():
                    self._spawn(self._run(action))
                case Refuse(number, name, arguments, words):
                    call_id, (server, tool) = _new_id(), self._owner(name)
                    begun = ServerCallBegun(call_id, server, tool, arguments, self._approval_id(number))
                    self._tell(begun, ServerCallEnded(call_id, words, True))
                case End():
                    self._end(action)

    async def _speak(self, ask: Ask) -> None:
        """Begin a turn of the model's."""
        plan, self._first = self._first, None
        if plan is None or ask.messages or not ask.with_tools:
            self._prompter = await self._renew()
            plan = await plan_chat(self._next_request(ask), self._prompter)
        if self._listener is None:
            return
        self._parser = plan.parsers[0] if plan.parsers else None
        self._parts = []
        self.plans = plan.plans
        self._turn = Generation(self._pool, plan.plans, record=self._record)
        self._turn.pause(on=self._paused)
        self._turn.start(_TurnListener(self))

    def _next_request(self, ask: Ask) -> ChatRequest:
        """The client's request as it is for a later turn."""
        request = self._request
        left = request.max_tokens
        if left is not None:
            left = max(1, left - self._used.get("completion_tokens", 0))
        messages = [*request.messages, *(self._disarmed(message) for message in ask.messages)]
        # A choice that was forced has been made; to force it again would never end.
        choice = request.tool_choice if not ask.messages or request.tool_choice == "none" else "auto"
        if not ask.with_tools:
            return replace(request, messages=messages, tools=[], tool_choice="none", max_tokens=left)
        return replace(request, messages=messages, tool_choice=choice, max_tokens=left)

    def _disarmed(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["role"] != "tool":
            return message
        return {**message, "content": disarm(message["content"], self._prompter.loaded.marks)}

    async def _run(self, run: Run) -> None:
        """Run a tool; whatever comes of it, the loop hears."""
        owned = self._selected.tools[run.name]
        label, tool = owned.server.label, owned.tool.name
        call_id = _new_id()
        arguments = dumps(run.arguments)
        self._tell(ServerCallBegun(call_id, label, tool, arguments, self._approval_id(run.number)))
        try:
            result = await self._hub.call(label, tool, run.arguments)
            text, is_error = as_text(result, owned.server.max_result_chars), result.is_error
        except McpFailure as failure:
            text, is_error = f"Error: {failure.words}", True
        text = await self._fitted(text)
        self._tell(ServerCallEnded(call_id, text, is_error))
        self._perform(self._loop.returned(run.number, text))

    async def _fitted(self, text: str) -> str:
        """The text, cut to its share of the room that the context has left."""
        card = self._prompter.card
        left = min(card.context_length, card.pool_tokens or card.context_length) - self._num_last
        room = max(1, int(left * RESULT_SHARE))
        most = min(room, len(text.encode()))  # a token is a byte at least
        self._num_last += most  # for results that come meanwhile
        encoding = await asyncio.to_thread(self._prompter.loaded.backend.encode, text, add_special_tokens=False)
        self._num_last += min(room, len(encoding.ids)) - most
        return text if len(encoding.ids) <= room else cut(text, encoding.offsets[room - 1][1])

    def _end(self, end: End) -> None:
        parts: list[Part] = []
        for number, call in enumerate(end.client_calls):
            parts += [CallBegun(number, call.name, call.id), CallArguments(number, call.arguments), CallEnded(number)]
        for call in end.to_approve:
            parts.append(ApprovalAsked(_new_id("mcpr"), *self._owner(call.name), call.arguments))
        self.relay.add(parts)
        self._ended = True
        reason = end.finish_reason if end.finish_reason in ("stop", "length") else "stop"
        self._emit(Piece("", [], [], reason))

    # What a turn of the model's brings.

    def turn_started(self, choice: Choice) -> None:
        if not self._begun and self._listener is not None:
            self._begun = True
            self._listener.started(choice)

    def turn_piece(self, choice: Choice, piece: Piece) -> None:
        if self._parser is None:
            parts: list[Part] = [Text(piece.text)] if piece.text else []
        else:
            parts = read_piece(self._parser, choice, piece)
        self._parts += parts
        # Whose a call is can only be said of all of a turn's calls together: they wait for its end.
        self.relay.add([part for part in parts if isinstance(part, Thought | Text)])
        self._emit(piece._replace(finish_reason=None))
        if piece.finish_reason is None:
            return
        turn = gather(self._parts)
        for call in turn.calls:
            call.id = call.id or f"call_{secrets.token_hex(12)}"
            if call.name not in self._theirs:
                call.name = self._selected.full_name(call.name)
        assert self._turn is not None
        usage = self._turn.usage
        self._used, self._num_last = _sum(self._used, usage), usage["total_tokens"]
        self._turn = None
        self._perform(self._loop.spoke(turn, piece.finish_reason))

    def turn_failed(self, error: TokenyardError) -> None:
        listener = self._listener
        self.cancel()
        if listener is not None:
            listener.failed(error)

    def _emit(self, piece: Piece) -> None:
        if self._listener is not None:
            self._listener.piece(self.choices[0], piece)

    def _tell(self, *parts: Part) -> None:
        self.relay.add(parts)
        if self._begun:
            self._emit(Piece("", [], [], None))

    def _owner(self, name: str) -> tuple[str, str]:
        """Server and tool of a name that the model used; a name that it made up has no server."""
        owned = self._selected.tools.get(name)
        return (owned.server.label, owned.tool.name) if owned else ("", name)

    def _approval_id(self, number: int) -> str:
        """The request that a person answered about this call: those are the first, and bear its id."""
        decided = [call for calls in self._decided for call in calls]
        return decided[number].id if number < len(decided) else ""

    def _out_of_time(self) -> None:
        self._perform(self._loop.out_of_time())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Any) -> None:
        """A request has one answer, whatever happens on the way."""
        try:
            await work
        except TokenyardError as error:
            self.turn_failed(error)
        except Exception:  # A bug that one request meets.
            log.exception("a turn failed")
            self.turn_failed(TokenyardError("worker_error", "the server failed at this answer; its log says why"))


class _TurnListener:
    """Hears of one turn, for the loop."""

    def __init__(self, loop: LoopGeneration) -> None:
        self._loop = loop

    def started(self, choice: Choice) -> None:
        self._loop.turn_started(choice)

    def piece(self, choice: Choice, piece: Piece) -> None:
        self._loop.turn_piece(choice, piece)

    def failed(self, error: TokenyardError) -> None:
        self._loop.turn_failed(error)


def _new_id(prefix: str = "mcp") -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two usages as one."""
    total = dict(one)
    for key, value in other.items():
        total[key] = _sum(one.get(key, {}), value) if isinstance(value, dict) else one.get(key, 0) + value
    return total
