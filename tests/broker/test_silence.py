"""Who is silent, by a heap, against a look at everybody."""

from hypothesis import given
from hypothesis import strategies as st

from tokenyard.broker.config import SILENCE_S
from tokenyard.broker.records import Front, Worker
from tokenyard.broker.silence import Silence

PEERS = 4
EVENTS = st.tuples(
    st.sampled_from(["hear", "patience", "watch", "forget", "look"]),
    st.integers(0, PEERS - 1),
    st.sampled_from([0.0, 0.5, 3.0, 9.0]),
)


@given(st.lists(EVENTS, max_size=60))
def test_the_overdue_are_found_at_the_first_look(events: list[tuple[str, int, float]]) -> None:
    silence, now = Silence(), 0.0
    peers = [Worker(b"%d" % index, b"", 1, "", "", 1, "ready", None, 0.0) for index in range(PEERS - 1)]
    known = [*peers, Front(b"f")]
    watched: set[int] = set()
    for what, index, amount in events:
        peer = known[index]
        now += amount
        if what == "watch":
            peer.heard_s = now
            watched.add(index)
            silence.watch(peer)
        elif what == "hear":
            peer.heard_s = now
        elif what == "patience" and isinstance(peer, Worker):
            peer.patience_s = amount
            if index in watched:
                silence.watch(peer)
        elif what == "forget":
            watched.discard(index)
            silence.forget(peer)
        elif what == "look":
            patience = [getattr(one, "patience_s", 0.0) for one in known]
            silent = {one for one in watched if now > known[one].heard_s + max(SILENCE_S, patience[one])}
            assert {known.index(one) for one in silence.overdue(now)} == silent
            watched -= silent
        assert len(silence) == len(watched)
