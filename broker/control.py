"""The operator's requests: status, spawn, kill; retiring.py has drain.

Each is repeated until answered, and idempotent: by the asker's connection and `req` where it spawns, by nature
elsewhere. Only agents spawn and end processes; the broker asks them.
"""

from collections.abc import Callable

from tokenyard.broker.answers import parts
from tokenyard.broker.records import Agent, State, Worker
from tokenyard.broker.wire import Answer, Kill, KillWorker, Spawn, Spawned, SpawnWorker, Status

REQUEST_MEMORY_S = 60.0
"""A request is remembered so long after it was last heard: an asker repeats it every 0.1 s."""


class _Spawning:
    """A SpawnWorker on its way."""

    def __init__(self, asker: bytes, asked: SpawnWorker, agent: Agent, req: int) -> None:
        self.asker = asker
        self.asked = asked
        self.agent = agent
        self.req = req
        """Towards the agent, which hears from many askers."""
        self.answer: Answer | None = None
        self.heard_s = 0.0


class Control:
    def __init__(
        self,
        state: State,
        pid: int,
        now: float,
        describe_loads: Callable[[], dict[str, list[dict[str, object]]]],
        describe_adapters: Callable[[], list[dict[str, object]]],
    ) -> None:
        self._state = state
        self._describe_loads = describe_loads
        self._describe_adapters = describe_adapters
        self._pid = pid
        self._started_s = now
        self._spawning: dict[tuple[bytes, int], _Spawning] = {}  # by asker and its req

    def status(self, peer: bytes, status: Status) -> None:
        state = self._state
        asked = state.workers if status.workers is None else dict.fromkeys(status.workers)
        broker = {
            "pid": self._pid,
            "epoch": state.epoch.hex(),
            "uptime_s": state.now - self._started_s,
            "queued": state.num_queued,
            "settled": state.settled,
            "lost_workers": dict(state.num_lost),
            "refused": dict(state.num_refused),
        }
        body = {
            "broker": broker,
            "workers": [self._describe(worker) for inc in asked if (worker := state.workers.get(inc))],
            "fronts": [
                {"inc": front.inc.hex(), "pid": front.pid, "jobs": len(front.jobs)} for front in state.fronts.values()
            ],
            "agents": [
                {
                    "inc": agent.inc.hex(),
                    "pid": agent.pid,
                    "devices": agent.devices,
                    "workers": len(agent.workers),
                    "troubles": agent.troubles,
                }
                for agent in state.agents.values()
            ],
            "models": {
                model.name: {
                    "queued": sum(map(len, model.queues.values())),
                    "placed": model.num_placed,
                    "workers": len(model.workers),
                }
                for model in state.models.values()
            },
            "adapters": self._describe_adapters(),
            **self._describe_loads(),
        }
        for part in parts(status.req, body):
            state.send(peer, part)

    def _describe(self, worker: Worker) -> dict[str, object]:
        agent = self._state.owners.get(worker.inc)
        return {
            "inc": worker.inc.hex(),
            "name": worker.name,
            "endpoint": worker.endpoint,
            "pid": worker.pid,
            "state": "kept out" if worker.kept_out and not worker.stuck else worker.state,
            "words": worker.stuck or worker.kept_out,
            "models": worker.card.names if worker.card else [],
            "adapters": sorted({adapter.name for adapter in worker.held}),
            "device": worker.card.device if worker.card else "",
            "capacity": worker.capacity,
            "running": len(worker.placements),
            "step": worker.step,
            "load": worker.load,
            "tokens_per_s": worker.tokens_per_s,
            "restarts": agent.restarts.get(worker.inc) if agent else None,
            "silent_s": self._state.now - worker.heard_s,
        }

    def kill(self, peer: bytes, kill: KillWorker) -> None:
        agent = self._state.owners.get(kill.inc)
        if agent is None:
            return self._state.send(peer, Answer(kill.req, f"no agent owns a worker {kill.inc.hex()}"))
        self._state.send(agent.peer, Kill(kill.inc))
        return self._state.send(peer, Answer(kill.req, ""))

    def spawn(self, peer: bytes, spawn: SpawnWorker) -> None:
        """Pass it to the agent with the fewest workers; answered once that has spawned."""
        state = self._state
        spawning = self._spawning.get((peer, spawn.req))
        if spawning is None or (spawning.answer is None and spawning.agent.inc not in state.agents):
            agent = min(state.agents.values(), key=lambda agent: len(agent.workers), default=None)
            if agent is None:
                return state.send(peer, Answer(spawn.req, "no agent is here to spawn it"))
            spawning = self._spawning[peer, spawn.req] = _Spawning(peer, spawn, agent, next(state.reqs))
        spawning.heard_s = state.now
        if spawning.answer is not None:
            return state.send(peer, spawning.answer)
        return state.send(spawning.agent.peer, Spawn(spawning.req, spawn.model, spawn.device))

    def spawned(self, agent: Agent, spawned: Spawned) -> bool:
        """Whether that was asked of this agent."""
        asked = (spawned.req, agent.inc)
        spawning = next((one for one in self._spawning.values() if (one.req, one.agent.inc) == asked), None)
        if spawning is None:
            return False
        if spawning.answer is None:
            spawning.answer = Answer(spawning.asked.req, "", {"inc": spawned.inc.hex()})
            self._state.send(spawning.asker, spawning.answer)
        return True

    def forget_answered(self) -> None:
        oldest_s = self._state.now - REQUEST_MEMORY_S
        self._spawning = {key: one for key, one in self._spawning.items() if one.heard_s > oldest_s}
