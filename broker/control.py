"""The operator's requests: status and kill; retiring.py has drain.

Each is repeated until answered, and idempotent by nature. Only agents end processes; the broker asks them.
"""

from collections.abc import Callable

from tokenyard.broker.answers import parts
from tokenyard.broker.records import State, Worker
from tokenyard.broker.wire import Answer, Kill, KillWorker, Status


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
