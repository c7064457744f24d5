"""Models on demand: who wants which, where it is loaded, and what is said when that fails. Sans-IO.

A load is a model on its way to a device: first without a place, then spawned on one, then a post whose worker loads.
room.py has the posts and who makes room for others, replicas.py what more workers a model gets that is back.
"""

import logging
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from tokenyard.broker.config import BEAT_S
from tokenyard.broker.dispatch import Model
from tokenyard.broker.jobs import Jobs
from tokenyard.broker.records import MAX_MODELS, MAX_NAME, Agent, Front, Recipe, State, Worker
from tokenyard.broker.replicas import Replicas
from tokenyard.broker.room import Policy, Room, room_bytes
from tokenyard.broker.wire import Exited, Kill, LoadFailed, Loading, Spawn, Spawned, UnloadModel, Want, WorkerUp

LOOK_S = 0.05
"""Between two looks while something is wanted: far below what a load takes."""
WANT_S = 2.0
"""A want that is not repeated for so long is forgotten: six repeats."""
FAILURE_S = 2.0
"""A failed load is answered from memory for so long, that every waiter hears of it and none starts it anew at once."""
STRANGER_S = 1.0
"""After the grace, agents and workers of a model that jobs resume have had time to speak: reconnects take 0.2 s."""
MAX_LOADS = 256
"""On their way at once, most of them waiting for a device: each look goes over all of them."""

log = logging.getLogger("broker")


class Place(NamedTuple):
    """A device of an agent's."""

    agent: bytes
    device: str


@dataclass(slots=True, eq=False)
class Load:
    recipe: Recipe
    since_s: float
    wanted: dict[bytes, float] = field(default_factory=dict)
    """Fronts whose clients wait, and when each last said so."""
    restores: bool = False
    """It made room for a model that could not be loaded: it comes back, wanted or not."""
    place: Place | None = None
    spawn: Spawn | None = None
    """What was asked of the agent; repeated until the post shows."""
    asked_s: float = -inf
    percent: int = 0
    """How far its worker was at the last look."""
    moved_s: float = inf
    """When that last rose, or when it got its place: a long download is no failure."""
    inc: bytes = b""
    """Of its worker, once that is known."""
    displaced: list[Recipe] = field(default_factory=list)
    """Who made room for it."""

    def lose_place(self) -> None:
        self.place, self.spawn, self.inc = None, None, b""
        self.moved_s, self.asked_s, self.percent = inf, -inf, 0

    def take(self, place: Place, now: float) -> None:
        self.place, self.moved_s = place, now


class Loads:
    """All loads, over the state that the rest of the core shares."""

    def __init__(self, state: State, jobs: Jobs, policy: Policy) -> None:
        self._state = state
        self._jobs = jobs
        self._room = Room(state, policy)
        self._replicas = Replicas(state, self._room)
        self._loads: dict[str, Load] = {}  # by model, oldest first
        self._failures: dict[str, tuple[float, LoadFailed]] = {}  # until when, and what
        self._look_s = 0.0

    # ---- events

    def want(self, front: Front, want: Want) -> None:
        """Answer how far it is; begin to load it if nobody has."""
        state = self._state
        if up := self._worker_of(want.model):
            return state.send(front.peer, WorkerUp(up.info))
        if failure := self._failures.get(want.model):
            return state.send(front.peer, failure[1])
        recipe = Recipe(*want)
        if want.model not in self._loads and (refusal := self._refusal(recipe)):
            return state.send(front.peer, refusal)
        self._remember(recipe)
        load = self._loads.setdefault(want.model, Load(recipe, state.now))
        load.wanted[front.inc] = state.now
        self._look()
        if self._loads.get(want.model) is load:
            state.send(front.peer, self._progress(load))
        return None

    def bring_back(self, model: Model) -> None:
        """Queued jobs of a model without workers are a want of their own."""
        if model.workers or model.name in self._loads or not model.num_queued:
            return
        state = self._state
        if recipe := state.recipes.get(model.name):
            self._loads[model.name] = Load(recipe, state.now)
            self._look()
        elif not model.served and state.now > state.grace_until_s + STRANGER_S and self._room.spots():
            # An older broker knew how to load it; its front does, too.
            self._jobs.reject_queued(model, "model_not_found", f"no worker has {model.name!r}")

    def __contains__(self, model: str) -> bool:
        """Whether it is on its way."""
        return model in self._loads

    def unload(self, peer: bytes, unload: UnloadModel) -> None:
        if load := self._loads.get(unload.model):
            self._fail(load, "model_load_failed", "it was unloaded by hand while it loaded")
        self._replicas.forget(unload.model)
        self._room.unload(peer, unload)

    def agent_spoke(self, agent: Agent) -> None:
        """Its posts may have changed."""
        for post in agent.posts.values():
            if post.model not in self._state.recipes:
                self._remember(Recipe(post.model, post.spec, 0))
            load = self._loads.get(post.model)
            if load is not None and load.place == (agent.inc, post.device) and not self._room.is_leaving(agent, post):
                load.spawn, load.inc = None, post.inc or load.inc
        for load in list(self._loads.values()):
            has_post = load.place is not None and load.place.agent == agent.inc and load.spawn is None
            if has_post and not any(post.model == load.recipe.model for post in agent.posts.values()):
                self._fail(load, "model_load_failed", "its process was given up")
        self._replicas.agent_spoke(agent)
        self._look()

    def agent_gone(self, agent: Agent) -> None:
        for load in self._loads.values():
            if load.place is not None and load.place.agent == agent.inc:
                load.lose_place()
        self._replicas.agent_gone(agent)
        self._look()

    def spawned(self, agent: Agent, spawned: Spawned) -> bool:
        """Whether that was asked of this agent."""
        for load in self._loads.values():
            is_here = load.place is not None and load.place.agent == agent.inc
            if is_here and load.spawn is not None and load.spawn.req == spawned.req:
                load.inc = spawned.inc
                return True
        return self._replicas.spawned(agent, spawned)

    def exited(self, agent: Agent, exited: Exited) -> None:
        """A worker's life has ended; `final`: with it its post."""
        if not exited.final:
            return
        for post in [post for post in agent.posts.values() if post.inc == exited.inc]:
            del agent.posts[post.number]
            if not self._room.is_leaving(agent, post):
                self._replicas.forget(post.model)
        self._replicas.exited(exited)
        for load in list(self._loads.values()):
            if load.inc == exited.inc:
                self._fail(load, "model_load_failed", exited.words)
        self._look()

    def joined(self, model: Model) -> None:
        """A worker serves it; membership.py tells the fronts."""
        self._failures.pop(model.name, None)
        if load := self._loads.pop(model.name, None):
            log.info("%s is up after %.1f s", model.name, self._state.now - load.since_s)

    def tick(self) -> None:
        if self._state.now >= self.next_look_s:
            self._look()

    @property
    def next_look_s(self) -> float:
        """When `tick` has something to do."""
        is_waiting = self._loads or self._room.is_being_made or self._replicas.is_waiting
        return self._look_s if is_waiting else inf

    def sweep(self) -> None:
        """What is looked at less often: idle models, models whose jobs wait, what can be forgotten."""
        now = self._state.now
        self._failures = {model: failure for model, failure in self._failures.items() if failure[0] > now}
        self._room.forget_askers()
        self._room.dismiss_idle()
        for model in self._state.models.values():
            self.bring_back(model)
        self._look()

    def describe(self) -> dict[str, list[dict[str, object]]]:
        """For Status."""
        return {
            "loads": [
                {**self._progress(load)._asdict(), "waiting_s": self._state.now - load.since_s}
                for load in self._loads.values()
            ],
            "posts": [
                {
                    **post._asdict(),
                    "agent": agent.inc.hex(),
                    "inc": post.inc.hex(),
                    "predecessor": post.predecessor.hex(),
                    "leaving": self._room.is_leaving(agent, post),
                }
                for agent, post in self._room.posts()
            ],
        }

    def check(self) -> None:
        """Assert what must hold after every event."""
        for name, load in self._loads.items():
            assert load.recipe.model == name
            assert (load.place is None) == (load.moved_s == inf)
            assert load.place is not None or (load.spawn is None and not load.inc)
            assert load.place is None or load.place.agent in self._state.agents
        self._replicas.check()

    # ---- steps

    def _look(self) -> None:
        """Bring every load as far as it can go now; the oldest has the first choice."""
        state = self._state
        self._look_s = state.now + LOOK_S
        self._room.look()
        if not state.settled:
            return
        num_waiting = 0
        for load in list(self._loads.values()):
            if self._loads.get(load.recipe.model) is not load or self._is_over(load):
                continue
            if load.place is None:
                self._find_place(load, num_waiting)
                num_waiting += load.place is None
            if load.place is not None and load.spawn is not None and load.asked_s <= state.now - BEAT_S:
                load.asked_s = state.now
                state.send(state.agents[load.place.agent].peer, load.spawn)
        self._replicas.look(self._has_free)

    def _is_over(self, load: Load) -> bool:
        """Forget what nobody wants, fail what takes too long or went wrong."""
        state, name = self._state, load.recipe.model
        fronts, limit_s = state.fronts, state.load_timeout_s
        oldest_s = state.now - WANT_S
        load.wanted = {inc: said_s for inc, said_s in load.wanted.items() if said_s > oldest_s and inc in fronts}
        model, worker = state.models.get(name), state.workers.get(load.inc)
        if worker is not None and (percent := worker.load.get("loading_percent", 0)) > load.percent:
            load.percent, load.moved_s = percent, state.now
        is_wanted = load.wanted or load.restores or (model is not None and model.num_queued)
        if not is_wanted and load.place is None:
            del self._loads[name]
        elif load.place is None and state.now - load.since_s > limit_s:
            self._fail(load, "pool_unavailable", f"no device became free within {limit_s:.0f} s")
        elif worker is not None and worker.kept_out:
            self._fail(load, "model_load_failed", worker.kept_out)
        elif state.now - load.moved_s > limit_s:
            self._fail(load, "model_load_failed", f"it came no further for {limit_s:.0f} s")
            self._kill(load.inc)
        return self._loads.get(name) is not load

    def _find_place(self, load: Load, num_ahead: int) -> None:
        """Its own post if it has one, else a free slot, else somebody's who makes room."""
        state, recipe = self._state, load.recipe
        if found := self._room.staying(recipe.model):
            agent, post = found
            load.take(Place(agent.inc, post.device), state.now)
            load.inc = post.inc
            return
        spots = self._room.spots(recipe)
        for agent, device in spots:
            if self._has_free(agent, device):
                load.take(Place(agent.inc, device), state.now)
                load.spawn = Spawn(next(state.reqs), recipe.spec, device, True)
                log.info("%s goes to %s", recipe.model, device)
                return
        if self._room.num_leaving(spots) > num_ahead:
            return  # room is being made already, for this load and for those before it
        if evicted := self._room.evict(spots, state.now - load.since_s, set(self._loads)):
            log.info("%s makes room for %s", evicted.model, recipe.model)
            self._replicas.made_room(evicted.model)
            load.displaced.append(state.recipes.get(evicted.model) or Recipe(evicted.model, evicted.spec, 0))

    def _has_free(self, agent: Agent, device: str) -> bool:
        """Beside those for which no post shows yet."""
        place = Place(agent.inc, device)
        num_coming = sum(one.spawn is not None and one.place == place for one in self._loads.values())
        return self._room.num_free(agent, device) > num_coming + self._replicas.num_coming(agent.inc, device)

    def _fail(self, load: Load, code: str, words: str) -> None:
        """Tell all who wait, and have those come back who made room for it."""
        state, name = self._state, load.recipe.model
        del self._loads[name]
        log.error("%s cannot be loaded: %s", name, words)
        failure = LoadFailed(name, code, f"{name} cannot be loaded: {words}")
        self._failures[name] = (state.now + FAILURE_S, failure)
        for inc in load.wanted:
            if front := state.fronts.get(inc):
                state.send(front.peer, failure)
        if model := state.models.get(name):
            self._jobs.reject_queued(model, code, failure.words)
        for agent, post in self._room.posts_of(name):
            self._room.dismiss(agent, post)
        for recipe in load.displaced:
            if recipe.model not in self._loads and not self._room.staying(recipe.model):
                self._loads[recipe.model] = Load(recipe, state.now, restores=True)

    def _kill(self, inc: bytes) -> None:
        if agent := self._state.owners.get(inc):
            self._state.send(agent.peer, Kill(inc))

    def _refusal(self, recipe: Recipe) -> LoadFailed | None:
        """Why it cannot be loaded here."""
        state = self._state
        if max(len(recipe.model), len(recipe.spec)) > MAX_NAME:
            return LoadFailed(recipe.model, "model_not_found", f"no model has a name of over {MAX_NAME:,} letters")
        if len(self._loads) >= MAX_LOADS:
            return LoadFailed(recipe.model, "queue_full", f"{MAX_LOADS} models are waiting to be loaded already")
        if not state.settled or state.now < state.grace_until_s:
            return None  # agents may still come
        spots = self._room.spots()
        if not spots:
            words = f"{recipe.model} is not up, and no agent is here that could load it"
            return LoadFailed(recipe.model, "pool_unavailable", words)
        if self._room.spots(recipe):
            return None
        room, device = max((room_bytes(*spot), spot[1]) for spot in spots)
        words = f"{recipe.model} takes {recipe.bytes_on(device):,} bytes of memory; a model may take {room:,} here"
        return LoadFailed(recipe.model, "model_too_large", words)

    def _remember(self, recipe: Recipe) -> None:
        recipes = self._state.recipes
        if max(len(recipe.model), len(recipe.spec)) > MAX_NAME:  # of an agent's post
            return
        recipes[recipe.model] = recipe
        recipes.move_to_end(recipe.model)
        if len(recipes) > MAX_MODELS:
            recipes.popitem(last=False)

    def _worker_of(self, name: str) -> Worker | None:
        """One that serves this model and is not on its way out."""
        model = self._state.models.get(name)
        workers = model.workers.values() if model else ()
        return next((worker for worker in workers if worker.state == "ready"), None)

    def _progress(self, load: Load) -> Loading:
        name = load.recipe.model
        if load.place is None:
            return Loading(name, "waiting", 0.0, "it waits for a device")
        worker = self._state.workers.get(load.inc)
        if worker is None:
            return Loading(name, "starting", 0.0, "its process starts")
        percent = worker.load.get("loading_percent", 0)
        return Loading(name, "loading", percent / 100, f"{percent} % loaded")
