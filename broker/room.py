"""What fills the devices and who makes room: posts as agents tell of them, dismissals, whom to evict. Sans-IO."""

import logging
from collections.abc import Iterator
from math import inf
from typing import NamedTuple

from tokenyard.broker.config import BEAT_S
from tokenyard.broker.recent import Recent
from tokenyard.broker.records import Agent, Recipe, State
from tokenyard.broker.wire import Answer, Dismiss, Post, UnloadModel

ASKER_S = 2.0
"""An asker that has not repeated its request for so long is gone: command line and fronts repeat within 0.3 s."""

log = logging.getLogger("broker")


class Policy(NamedTuple):
    """How models make room for each other."""

    residence_s: float = 5.0
    """A model that is up stays so long at least: a few times what a swap takes, so that most time goes into serving."""
    patience_s: float = 10.0
    """After so long a wait even a busy model makes room, lest the wanted one starve; 0: at once."""
    idle_timeout_s: float = 300.0
    """A model that was loaded on demand is unloaded after so long without a job; 0: never."""


DEFAULT_POLICY = Policy()


Spot = tuple[Agent, str]
"""A device of an agent's."""


class Room:
    """All posts of all agents, over the state that the rest of the core shares."""

    def __init__(self, state: State, policy: Policy) -> None:
        self._state = state
        self._policy = policy
        self._dismissed: dict[tuple[bytes, int], float] = {}  # agent and post; when it was last asked to
        self._unloading: Recent[bool] = Recent(ASKER_S)

    @property
    def is_being_made(self) -> bool:
        return bool(self._dismissed)

    def posts(self) -> Iterator[tuple[Agent, Post]]:
        for agent in self._state.agents.values():
            for post in list(agent.posts.values()):
                yield agent, post

    def posts_of(self, model: str) -> list[tuple[Agent, Post]]:
        return [(agent, post) for agent, post in self.posts() if post.model == model]

    def staying(self, model: str) -> tuple[Agent, Post] | None:
        """A post of this model that nobody has dismissed."""
        return next((found for found in self.posts_of(model) if not self.is_leaving(*found)), None)

    def num_staying(self, model: str) -> int:
        """Posts of this model that nobody has dismissed."""
        return sum(not self.is_leaving(*found) for found in self.posts_of(model))

    def is_in_use(self, model: str) -> bool:
        """It is up, and would not be unloaded for idleness."""
        limit_s = self._policy.idle_timeout_s
        known = self._state.models.get(model)
        if known is None or not known.workers:
            return False
        used_s = max(known.used_s, known.up_since_s)
        return not limit_s or not known.is_idle or self._state.now - used_s <= limit_s

    def is_leaving(self, agent: Agent, post: Post) -> bool:
        return post.leaving or (agent.inc, post.number) in self._dismissed

    # ---- where there is room

    def spots(self, recipe: Recipe | None = None) -> list[Spot]:
        """All devices, or those on which this model can stand at all."""
        spots = [(agent, device) for agent in self._state.agents.values() for device in agent.slots]
        if recipe is None:
            return spots
        return [spot for spot in spots if not (room := room_bytes(*spot)) or recipe.bytes_on(spot[1]) <= room]

    def num_free(self, agent: Agent, device: str) -> int:
        return agent.slots[device] - sum(post.device == device for post in agent.posts.values())

    def num_leaving(self, spots: list[Spot]) -> int:
        return sum(self.is_leaving(agent, post) and (agent, post.device) in spots for agent, post in self.posts())

    def evict(self, spots: list[Spot], waited_s: float, kept: set[str]) -> Post | None:
        """Have the least recently used post on one of these devices make room, if one may; `kept` models may not."""
        victims = [
            (self._used_s(post), agent.inc, post.number)
            for agent, post in self.posts()
            if (agent, post.device) in spots and post.model not in kept and self._may_evict(agent, post, waited_s)
        ]
        if not victims:
            return None
        _, inc, number = min(victims)
        agent = self._state.agents[inc]
        self.dismiss(agent, agent.posts[number])
        return agent.posts[number]

    def _may_evict(self, agent: Agent, post: Post, waited_s: float) -> bool:
        if post.pinned or self.is_leaving(agent, post):
            return False
        model = self._state.models.get(post.model)
        if model is None or not model.workers:
            return True  # it is not up, and nobody waits for it
        settled_in = self._state.now - model.up_since_s >= self._policy.residence_s
        return settled_in and (model.is_idle or waited_s >= self._policy.patience_s)

    def _used_s(self, post: Post) -> float:
        """When it last had work; busy ones last."""
        model = self._state.models.get(post.model)
        if model is None:
            return -inf
        return max(model.used_s, model.up_since_s) if model.is_idle else inf

    # ---- making it

    def dismiss(self, agent: Agent, post: Post) -> None:
        """Have this post given up; said again until the agent's posts show it."""
        if not self.is_leaving(agent, post):
            self._dismissed[agent.inc, post.number] = self._state.now
            self._state.send(agent.peer, Dismiss(post.number))

    def dismiss_idle(self) -> None:
        """Those on demand that have had no job for too long."""
        limit_s = self._policy.idle_timeout_s
        for agent, post in self.posts() if limit_s else ():
            model = self._state.models.get(post.model)
            if model is None or not model.workers or not model.is_idle or post.named or post.pinned:
                continue
            if self._state.now - self._used_s(post) > limit_s and not self.is_leaving(agent, post):
                log.info("%s is unloaded: it had no job for %.0f s", post.model, limit_s)
                self.dismiss(agent, post)

    def look(self) -> None:
        """Forget dismissals that are done, repeat the others."""
        state = self._state
        agents = state.agents
        self._dismissed = {
            (inc, number): asked_s
            for (inc, number), asked_s in self._dismissed.items()
            if inc in agents and number in agents[inc].posts
        }
        for (inc, number), asked_s in self._dismissed.items():
            if asked_s <= state.now - BEAT_S and not agents[inc].posts[number].leaving:
                self._dismissed[inc, number] = state.now
                state.send(agents[inc].peer, Dismiss(number))

    def unload(self, peer: bytes, unload: UnloadModel) -> None:
        """Dismiss all posts of a model, as its asker wants; answered once none is left."""
        key = (peer, unload.req)
        posts = self.posts_of(unload.model)
        for agent, post in posts:
            self.dismiss(agent, post)
        if posts:
            self._unloading.hear(key, True, self._state.now)
            return
        error = "" if self._unloading.pop(key) else f"no agent has the model {unload.model!r} loaded"
        self._state.send(peer, Answer(unload.req, error))

    def forget_askers(self) -> None:
        self._unloading.forget(self._state.now)


def room_bytes(agent: Agent, device: str) -> int:
    """What one model may take there: an even share; 0: unknown."""
    return agent.memory_bytes.get(device, 0) // max(1, agent.slots[device])
