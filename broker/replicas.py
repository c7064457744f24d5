"""The other workers of a model that had several when it made room: they follow once it is back. Sans-IO.

They get what is free and nobody waits for, and make nobody leave. Where one of them is given up, the model goes on with
those that it has.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from tokenyard.broker.config import BEAT_S
from tokenyard.broker.records import Agent, State
from tokenyard.broker.room import Room
from tokenyard.broker.wire import Exited, Spawn, Spawned

log = logging.getLogger("broker")


@dataclass(slots=True, eq=False)
class Coming:
    """A worker that an agent was asked for."""

    agent: bytes
    spawn: Spawn
    asked_s: float = -inf
    inc: bytes = b""
    """Told by the agent; its post is there, or shows with the next word."""


class Replicas:
    """Of all models, over the state that the rest of the core shares."""

    def __init__(self, state: State, room: Room) -> None:
        self._state = state
        self._room = room
        self._wanted: dict[str, int] = {}
        """How many posts each model had before it made room, until it has them again."""
        self._coming: dict[str, Coming] = {}

    @property
    def is_waiting(self) -> bool:
        """An agent has not answered yet."""
        return bool(self._coming)

    def num_coming(self, agent: bytes, device: str) -> int:
        """Workers for which no post shows yet."""
        return sum(one.agent == agent and one.spawn.device == device for one in self._coming.values())

    def made_room(self, model: str) -> None:
        """One of its posts has just been dismissed."""
        self._wanted[model] = max(self._wanted.get(model, 0), 1 + self._room.num_staying(model))

    def forget(self, model: str) -> None:
        """It is to have no more than it has."""
        self._wanted.pop(model, None)

    def look(self, has_free: Callable[[Agent, str], bool]) -> None:
        """Ask for what is missing of models that are up. `has_free`: of a device, which nobody else has asked for."""
        state = self._state
        for name, wanted in list(self._wanted.items()):
            num = self._room.num_staying(name)
            if num >= wanted:
                del self._wanted[name]
            elif num and name not in self._coming and self._room.is_in_use(name):
                self._ask(name, has_free)
        for coming in self._coming.values():
            if not coming.inc and coming.asked_s <= state.now - BEAT_S:
                coming.asked_s = state.now
                state.send(state.agents[coming.agent].peer, coming.spawn)

    def _ask(self, name: str, has_free: Callable[[Agent, str], bool]) -> None:
        state = self._state
        if (recipe := state.recipes.get(name)) is None:
            return
        for agent, device in self._room.spots(recipe):
            if has_free(agent, device):
                self._coming[name] = Coming(agent.inc, Spawn(next(state.reqs), recipe.spec, device, True))
                log.info("%s is back: another worker of it goes to %s", name, device)
                return

    def spawned(self, agent: Agent, spawned: Spawned) -> bool:
        """Whether that was asked of this agent."""
        for name, coming in self._coming.items():
            if coming.agent == agent.inc and coming.spawn.req == spawned.req:
                coming.inc = spawned.inc
                if any(post.inc == coming.inc for post in agent.posts.values()):
                    del self._coming[name]
                return True
        return False

    def agent_spoke(self, agent: Agent) -> None:
        """Its posts are told, those of workers that it has answered with among them."""
        for name, coming in list(self._coming.items()):
            if coming.agent == agent.inc and coming.inc:
                del self._coming[name]

    def agent_gone(self, agent: Agent) -> None:
        self._coming = {name: one for name, one in self._coming.items() if one.agent != agent.inc}

    def exited(self, exited: Exited) -> None:
        """A life has ended for good, perhaps before a post of it showed."""
        for name in [name for name, one in self._coming.items() if one.inc == exited.inc]:
            del self._coming[name]
            self.forget(name)

    def check(self) -> None:
        """Assert what must hold after every event."""
        assert all(coming.agent in self._state.agents for coming in self._coming.values())
