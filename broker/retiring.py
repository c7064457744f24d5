"""Workers that are emptied, and replaced, as an operator wants. Sans-IO.

A request is repeated until it is answered, which is when all is done: only the worker's agent can tell, and it is asked
anew with each repeat, so that nothing depends on what this broker remembers.
"""

from dataclasses import dataclass

from tokenyard.broker.recent import Recent
from tokenyard.broker.records import Agent, State
from tokenyard.broker.wire import SUCCESSORS, Answer, Drain, DrainWorker, Retire, Retired


@dataclass(slots=True)
class _Request:
    asker: bytes
    asked: DrainWorker
    agent: bytes = b""
    """Who was asked last: nobody else answers."""
    answer: Answer | None = None


class Retiring:
    """All such requests, over the state that the rest of the core shares."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._requests: Recent[_Request] = Recent()

    def drain(self, peer: bytes, drain: DrainWorker) -> None:
        asker = (peer, drain.req)
        request = self._requests.get(asker)
        if refusal := self._refusal(drain, request is not None):
            return self._state.send(peer, Answer(drain.req, refusal))
        if request is None:
            request = _Request(peer, drain)
        self._requests.hear(asker, request, self._state.now)
        self._go_on(request)
        if request.answer is not None:
            self._state.send(peer, request.answer)
        return None

    def retired(self, agent: Agent, retired: Retired) -> None:
        """The agent has done it, or could not."""
        for request in self._requests:
            if request.asked.inc != retired.inc or request.answer is not None:
                continue
            if request.agent != agent.inc:
                self._state.refuse(agent.peer, f"the worker {retired.inc.hex()} is not this agent's", "ownership")
            else:
                body = {"successor": retired.successor.hex()}
                request.answer = Answer(request.asked.req, retired.words, body)
                self._state.send(request.asker, request.answer)

    def forget_answered(self) -> None:
        self._requests.forget(self._state.now)

    def _go_on(self, request: _Request) -> None:
        asked = request.asked
        if request.answer is not None:
            return
        if agent := self._agent_of(asked.inc):
            request.agent = agent.inc
            self._state.send(agent.peer, Retire(asked.inc, asked.successor, asked.timeout_ms))
        elif worker := self._state.workers.get(asked.inc):
            self._state.send(worker.peer, Drain())
        else:
            request.answer = Answer(asked.req, "", {"successor": ""})

    def _refusal(self, drain: DrainWorker, was_begun: bool) -> str:
        """Why it cannot be; empty where it can."""
        inc = drain.inc
        if drain.successor not in SUCCESSORS:
            return f"successor {drain.successor!r} is none of {', '.join(SUCCESSORS)}"
        if was_begun or self._agent_of(inc):
            return ""
        if inc not in self._state.workers:
            return f"no worker {inc.hex()}"
        return "" if drain.successor == "none" else f"no agent owns {inc.hex()}: nothing would start its successor"

    def _agent_of(self, inc: bytes) -> Agent | None:
        """Whose worker it is, or was, if another has its place."""
        if agent := self._state.owners.get(inc):
            return agent
        for agent in self._state.agents.values():
            if any(post.predecessor == inc for post in agent.posts.values()):
                return agent
        return None
