"""Who may speak for whom: admits hellos, and ties each connection to the one peer that it speaks for. Sans-IO."""

from itertools import zip_longest
from typing import Any

from tokenyard.broker import wire
from tokenyard.broker.codec import encode
from tokenyard.broker.deaths import Deaths
from tokenyard.broker.identity import incarnation_of
from tokenyard.broker.records import Agent, Front, Peer, State, Worker
from tokenyard.broker.silence import Silence

Hello = wire.FrontHello | wire.WorkerHello | wire.AgentHello

ROLES: dict[type[Any], type[Peer]] = {wire.FrontHello: Front, wire.WorkerHello: Worker, wire.AgentHello: Agent}

MAX_DESCRIPTION_BYTES = 32 << 10
"""Of a worker, card and all, without its adapters: one of an 8B model has half a kilobyte."""

WORKER_STATES = ("loading", "ready", "draining")
_NO_STATE = "no worker has the state {!r}"


class Gate:
    """Over a State that it shares with the rest of the core."""

    def __init__(self, state: State, silence: Silence, deaths: Deaths) -> None:
        self._state = state
        self._silence = silence
        self._deaths = deaths

    def admits(self, peer: bytes, hello: Hello) -> bool:
        """Whether this peer can take part; if not, it is told why."""
        words, reason = self._refusal(peer, hello)
        if words:
            self._state.refuse(peer, words, reason)
        return not words

    def register(self, peer: bytes, sender: Peer) -> None:
        """From now on this connection speaks for it; an older one no longer does."""
        self._state.peers.pop(sender.peer, None)
        self._state.peers[peer] = sender
        sender.peer, sender.heard_s = peer, self._state.now
        self._silence.watch(sender)

    def understands(self, worker: Worker, beat: wire.Beat) -> bool:
        """Whether this beat can be; if not, the worker is told why."""
        if beat.state not in WORKER_STATES:
            self._state.refuse(worker.peer, _NO_STATE.format(beat.state), "malformed")
        return beat.state in WORKER_STATES

    def note_workers(self, agent: Agent, hello: wire.AgentHello) -> None:
        """Those that are its own, living: who knows their secrets started them."""
        state = self._state
        shown = zip_longest(hello.workers, hello.proofs[: len(hello.workers)], fillvalue=b"")
        proven = {inc for inc, secret in shown if incarnation_of(secret) == inc}
        for inc in agent.workers - proven:
            state.disown(agent, inc)
        for inc in proven:
            if (other := state.owners.get(inc, agent)) is not agent:
                state.disown(other, inc)
            state.own(agent, inc)
        for inc in set(hello.workers) - proven:
            self.owns(agent, inc)

    def owns(self, agent: Agent, inc: bytes) -> bool:
        """Whether the agent may speak of this worker's life. It is told if not, unless nothing could be harmed."""
        state = self._state
        owner = state.owners.get(inc)
        if owner is not agent and (owner or inc in state.workers or inc in self._deaths):
            state.refuse(agent.peer, f"the worker {inc.hex()} is not this agent's", "ownership")
        return owner is agent

    def _refusal(self, peer: bytes, hello: Hello) -> tuple[str, str]:
        """Words and the reason that is counted; empty where there is none."""
        known = self._state.peers.get(peer)
        if hello.protocol != wire.PROTOCOL:
            words = f"this broker speaks protocol {wire.PROTOCOL}, not {hello.protocol}; restart both from one version"
            return words, "version"
        if incarnation_of(hello.secret) != hello.inc:
            return "the secret in this hello is not that of its incarnation: nobody may speak for another", "identity"
        if known is not None and (known.inc, type(known)) != (hello.inc, ROLES[type(hello)]):
            return f"this connection belongs to {type(known).__name__.lower()} {known.inc.hex()}", "identity"
        return _worker_refusal(hello) if isinstance(hello, wire.WorkerHello) else ("", "")


def _worker_refusal(hello: wire.WorkerHello) -> tuple[str, str]:
    """What is wrong with a worker's hello."""
    if hello.capacity < 1:
        return f"a worker cannot have a capacity of {hello.capacity}", "malformed"
    if hello.state not in WORKER_STATES:
        return _NO_STATE.format(hello.state), "malformed"
    card = hello.card and hello.card._replace(adapters=[])
    num_bytes = len(encode(hello._replace(card=card, jobs=[])))
    if num_bytes > MAX_DESCRIPTION_BYTES:
        words = f"this worker describes itself in {num_bytes:,} bytes; {MAX_DESCRIPTION_BYTES:,} are the most"
        return words, "oversized"
    return "", ""
