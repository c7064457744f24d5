"""From a checked conversation to the generation that answers it: a plain one, or one that runs servers' tools on its
way.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tokenyard.http.chat import plan_chat
from tokenyard.http.errors import invalid
from tokenyard.http.generation import Generation
from tokenyard.http.mcp.generation import LoopGeneration, Planner
from tokenyard.http.mcp.selection import Selected, Wish, select
from tokenyard.http.models import Wait
from tokenyard.http.prompt import Prompter
from tokenyard.http.schemas import ChatRequest
from tokenyard.http.service import Service
from tokenyard.http.turns import Call, TurnParser


class Begun(NamedTuple):
    """What an answer's format needs."""

    generation: Generation
    parsers: list[TurnParser]
    """As of ChatPlan."""


class Manner(NamedTuple):
    """In what an API's loops differ."""

    can_ask: bool = False
    """Whether a person can be asked to approve a call."""
    returns_mixed: bool = False
    """Whether an answer can hold calls of ours that ran beside calls that the client is to run."""


CHAT = Manner()
"""Of chat completions and messages: they have no way to ask, and no place for a call that has run already."""


async def begin(
    service: Service,
    request: ChatRequest,
    prompter: Prompter,
    wishes: Sequence[Wish],
    manner: Manner = CHAT,
    *,
    max_calls: int | None = None,
    approved: Sequence[Call] = (),
    denied: Sequence[Call] = (),
    choose: Callable[[Selected], Any] | None = None,
    plan: Planner = plan_chat,
) -> Begun:
    """Offer the tools of the servers that are wished for, beside the request's own, and render the first turn.

    `choose` turns a tool_choice that names a server into one that names tools. Raises TokenyardError naming the field.
    """
    hub = service.hub
    if wishes and _fits(request, prompter, wishes):
        taken = [tool["function"]["name"] for tool in request.tools]
        selected = await select(hub, wishes, taken, can_ask=manner.can_ask)
        if choose is not None:
            request = replace(request, tool_choice=choose(selected))
        if selected.tools or any(wish.param != "tools" for wish in wishes):
            generation = await LoopGeneration.prepare(
                service.pool,
                hub,
                prompter,
                request,
                selected,
                lambda: service.models.prompter(Wait(request.model)),
                returns_mixed=manner.returns_mixed,
                max_calls=max_calls,
                approved=approved,
                denied=denied,
                plan=plan,
            )
            return Begun(generation, [generation.relay])
    plans, parsers = await plan(request, prompter)
    return Begun(Generation(service.pool, plans), parsers)


def _fits(request: ChatRequest, prompter: Prompter, wishes: Sequence[Wish]) -> bool:
    """Whether the request has room for tools of servers; where it asked for them itself, it must have."""
    asked = next((wish.param for wish in wishes if wish.param != "tools"), None)
    if request.tool_choice == "none":
        return False
    if asked is None:  # unasked, tools are offered only where they change nothing else about the answer
        return request.n == 1 and prompter.loaded.speech.format is not None
    if request.n > 1:
        invalid("n", "must be 1 where tools of MCP servers are offered")
    if prompter.loaded.speech.format is None:
        invalid(asked, f"cannot be used with {prompter.card.names[0]}: its template teaches no calls that we know")
    return True
