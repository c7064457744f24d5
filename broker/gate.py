"""Who may speak for whom: admits hellos, and ties each connection to the one peer that it speaks for. Sans-IO."""

from typing import Any

from tokenyard.broker import wire
from tokenyard.broker.records import Agent, Front, Peer, State, Worker
from tokenyard.broker.silence import Silence

Hello = wire.FrontHello | wire.WorkerHello | wire.AgentHello

ROLES: dict[type[Any], type[Peer]] = {wire.FrontHello: Front, wire.WorkerHello: Worker, wire.AgentHello: Agent}

WORKER_STATES = ("loading", "ready", "draining")


class Gate:
    """Over a State that it shares with the rest of the core."""

    def __init__(self, state: State, silence: Silence) -> None:
        self._state = state
        self._silence = silence

    def admits(self, peer: bytes, hello: Hello) -> bool:
        """Whether this peer can take part; if not, it is told why."""
        words = self._refusal(peer, hello)
        if words:
            self._state.send(peer, wire.Refused(words))
        return not words

    def register(self, peer: bytes, sender: Peer) -> None:
        """From now on this connection speaks for it; an older one no longer does."""
        self._state.peers.pop(sender.peer, None)
        self._state.peers[peer] = sender
        sender.peer, sender.heard_s = peer, self._state.now
        self._silence.watch(sender)

    def _refusal(self, peer: bytes, hello: Hello) -> str:
        known = self._state.peers.get(peer)
        if hello.protocol != wire.PROTOCOL:
            return f"this broker speaks protocol {wire.PROTOCOL}, not {hello.protocol}; restart both from one version"
        if len(hello.inc) != wire.INC_BYTES:
            return f"an incarnation has {wire.INC_BYTES} bytes, not {len(hello.inc)}"
        if known is not None and (known.inc, type(known)) != (hello.inc, ROLES[type(hello)]):
            return f"this connection belongs to {type(known).__name__.lower()} {known.inc.hex()}"
        return _worker_words(hello) if isinstance(hello, wire.WorkerHello) else ""


def _worker_words(hello: wire.WorkerHello) -> str:
    """What is wrong with a worker's hello."""
    if hello.capacity < 1:
        return f"a worker cannot have a capacity of {hello.capacity}"
    if hello.state not in WORKER_STATES:
        return f"no worker has the state {hello.state!r}"
    if hello.card is not None and not hello.card.names:
        return "a card without a name"
    return ""
