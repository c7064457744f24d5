"""Who is there and who is alive: registration, deaths, and a broker that starts in the middle of things."""

from typing import Any, get_args

import pytest
from contract import values
from hypothesis import given, settings
from hypothesis import strategies as st
from switch import EPOCH, MODEL, Switch, card, held, inc, secret, submit

from tokenyard.broker.config import GRACE_S, SILENCE_S
from tokenyard.broker.wire import (
    PROTOCOL,
    Abort,
    Accepted,
    AgentHello,
    AgentToBroker,
    Beat,
    ControlToBroker,
    Done,
    Exited,
    FrontHello,
    FrontJob,
    FrontToBroker,
    Goodbye,
    LinkUp,
    Lost,
    Message,
    Ping,
    Placed,
    Refused,
    Reject,
    Welcome,
    Who,
    WorkerDown,
    WorkerHello,
    WorkerInfo,
    WorkerToBroker,
    WorkerUp,
)


def kinds(messages: list[Message]) -> list[type]:
    return [type(message) for message in messages]


# ---- registration


def test_a_front_is_welcomed_with_all_workers() -> None:
    switch = Switch()
    switch.worker("w1")
    switch.worker("w2", state="loading")
    assert switch.front() == [Welcome(EPOCH, [WorkerInfo(inc("w1"), "ipc://w1", card())])]


def test_fronts_hear_of_a_worker_once_it_has_a_card() -> None:
    switch = Switch()
    switch.front()
    switch.worker("w1", state="loading")
    assert switch.mail("front") == []
    switch.worker("w1")
    switch.worker("w1")
    assert switch.mail("front") == [WorkerUp(WorkerInfo(inc("w1"), "ipc://w1", card()))]


@pytest.mark.parametrize(
    "hello",
    [
        FrontHello(PROTOCOL + 1, inc("x"), 1, []),
        WorkerHello(PROTOCOL + 1, inc("x"), 1, "ready", "ipc://x", 1, card(), []),
        AgentHello(PROTOCOL + 1, inc("x"), 1, [], []),
    ],
)
def test_another_protocol_is_refused_with_words(hello: Message) -> None:
    (refused,) = Switch().say("x", hello)
    assert isinstance(refused, Refused)
    assert f"protocol {PROTOCOL}" in refused.words


@pytest.mark.parametrize(
    "hello",
    [
        FrontHello(PROTOCOL, inc("y"), 1, [], secret("x")),
        Switch.hello("x", capacity=0),
        Switch.hello("x", state="asleep"),
    ],
)
def test_a_senseless_hello_is_refused(hello: Message) -> None:
    switch = Switch()
    assert kinds(switch.say("x", hello)) == [Refused]
    assert switch.say("x", Ping(inc("x"))) == [Who(EPOCH)]


def test_one_connection_cannot_speak_for_two() -> None:
    switch = Switch()
    switch.front("f1")
    assert kinds(switch.front("f2", peer="f1")) == [Refused]


@pytest.mark.parametrize(
    "message", [Ping(inc("x")), submit(1), Beat(inc("x"), "ready", 0, 0, []), Done(inc("f"), 1, 1, "stop")]
)
def test_strangers_are_asked_who_they_are(message: Message) -> None:
    assert Switch().say("x", message) == [Who(EPOCH)]


def test_a_message_of_another_role_is_refused() -> None:
    switch = Switch()
    switch.worker()
    assert kinds(switch.say("worker", submit(1))) == [Refused]
    assert kinds(switch.say("worker", LinkUp(inc("worker"), 0, 0))) == [Refused]


def test_a_hello_over_a_new_connection_replaces_the_old() -> None:
    switch = Switch()
    switch.front()
    switch.worker()
    switch.front("front", peer="again")
    assert kinds(switch.say("again", submit(1))) == [Placed]
    assert switch.say("front", submit(2)) == [Who(EPOCH)]
    switch.gone("front")  # the old connection's end is nobody's
    assert kinds(switch.say("again", submit(3))) == [Placed]


# ---- death


def test_a_dead_worker_is_announced_and_its_jobs_are_lost() -> None:
    switch = Switch()
    switch.front("f1")
    switch.front("f2")
    switch.worker()
    switch.mail("f1")
    switch.mail("f2")
    switch.say("f1", submit(1))
    switch.gone("worker")
    assert switch.mail("f1") == [WorkerDown(inc("worker")), Lost(1, 1, 0)]
    assert switch.mail("f2") == [WorkerDown(inc("worker"))]


def test_a_repeat_of_a_lost_attempt_hears_lost_again() -> None:
    switch = Switch()
    switch.front()
    switch.worker()
    switch.say("front", submit(1))
    switch.gone("worker")
    switch.mail("front")
    assert switch.say("front", submit(1)) == [Lost(1, 1, 0)]


def test_silence_is_death_but_not_within_the_announced_patience() -> None:
    switch = Switch()
    switch.front()
    switch.worker("patient")
    switch.worker("plain")
    switch.beat("patient", patience_ms=60_000)
    switch.mail("front")
    switch.wait(SILENCE_S - 0.1, alive=("front",))
    assert switch.mail("front") == []
    switch.go_silent("front")
    assert switch.mail("front") == [WorkerDown(inc("plain"))]


def test_a_broker_that_was_stopped_itself_gives_everyone_another_chance() -> None:
    switch = Switch()
    switch.front()
    switch.worker()
    switch.mail("front")
    switch.now += 10 * SILENCE_S
    switch.wait(SILENCE_S - 0.1)
    assert switch.mail("front") == []
    switch.go_silent("front")
    assert switch.mail("front") == [WorkerDown(inc("worker"))]


def test_goodbye_ends_it_at_once() -> None:
    switch = Switch()
    switch.front()
    switch.worker()
    switch.mail("front")
    switch.say("worker", Goodbye(inc("worker")))
    assert switch.mail("front") == [WorkerDown(inc("worker"))]


def test_a_dead_front_has_its_jobs_aborted_and_dropped() -> None:
    switch = Switch()
    switch.front("f1")
    switch.front("f2")
    switch.worker(capacity=1)
    for job in (1, 2):
        switch.say("f1", submit(job))
    switch.say("f2", submit(1))
    switch.mail("worker")
    switch.gone("f1")
    assert switch.mail("worker") == [Abort(inc("f1"), 1, 1)]
    switch.mail("f2")
    switch.say("worker", Done(inc("f1"), 1, 1, "cancelled"))
    assert switch.mail("f2") == [Placed(1, 1, inc("worker"))]


def test_a_zombie_is_used_again_without_its_stale_attempts() -> None:
    switch = Switch()
    switch.front()
    switch.worker("w1", capacity=2)
    switch.say("front", submit(1))
    switch.go_silent("front")
    assert Lost(1, 1, 0) in switch.mail("front")
    switch.worker("w2")
    switch.say("front", submit(1, attempt=2))
    assert switch.beat("w1", held("front", 1)) == [Who(EPOCH)]
    switch.mail("front")
    assert switch.worker("w1", held("front", 1), capacity=2) == [Abort(inc("front"), 1, 1)]
    assert switch.mail("front") == [WorkerUp(WorkerInfo(inc("w1"), "ipc://w1", card()))]
    switch.gone("w2")
    assert switch.mail("front") == [WorkerDown(inc("w2")), Lost(1, 2, 0)]
    assert switch.say("front", submit(1, attempt=3)) == [Placed(1, 3, inc("w1"))]


# ---- why it died


def test_lost_waits_for_the_agents_word_and_a_crash_counts() -> None:
    switch = Switch()
    switch.front()
    switch.worker()
    switch.agent("worker")
    switch.say("front", submit(1))
    switch.mail("front")
    switch.gone("worker")
    assert switch.mail("front") == [WorkerDown(inc("worker"))]
    switch.say("agent", Exited(inc("worker"), "crash", "signal 11"))
    assert switch.mail("front") == [Lost(1, 1, 1)]


@pytest.mark.parametrize("cause", ["killed", "drained"])
def test_an_end_from_outside_does_not_count(cause: str) -> None:
    switch = Switch()
    switch.front()
    switch.worker()
    switch.agent("worker")
    switch.say("front", submit(1))
    switch.say("agent", Exited(inc("worker"), cause, ""))
    assert switch.mail("front")[-1] == Lost(1, 1, 0)


def test_without_a_word_lost_goes_out_soon_and_a_late_word_still_counts() -> None:
    switch = Switch()
    switch.front()
    switch.worker("w1")
    switch.agent("w1")
    switch.say("front", submit(1))
    switch.gone("w1")
    switch.wait(0.03)
    assert switch.mail("front")[-1] == Lost(1, 1, 0)
    switch.worker("w2")
    switch.say("front", submit(1, attempt=2))
    switch.say("agent", Exited(inc("w1"), "crash", "out of memory"))
    switch.gone("w2")
    assert switch.mail("front")[-1] == Lost(1, 2, 1)


def test_a_late_word_moves_a_queued_attempt_among_the_suspects() -> None:
    switch = Switch()
    switch.front()
    switch.worker("w1")
    switch.agent("w1")
    switch.say("front", submit(1))
    switch.gone("w1")
    switch.wait(0.03)
    switch.say("front", submit(1, attempt=2, crashes=2))
    switch.mail("front")
    switch.say("agent", Exited(inc("w1"), "crash", ""))
    (reject,) = switch.mail("front")
    assert isinstance(reject, Reject)
    assert reject.code == "job_crashes_workers"


def test_a_zombie_that_returns_before_the_agents_word_does_not_swallow_lost() -> None:
    switch = Switch()
    switch.front()
    switch.worker()
    switch.agent("worker")
    switch.say("front", submit(1))
    switch.gone("worker")
    switch.worker("worker", held("front", 1))
    assert Lost(1, 1, 0) in switch.mail("front")


# ---- a broker that starts in the middle


def test_a_new_broker_takes_over_what_workers_run_and_fronts_claim() -> None:
    switch = Switch(in_grace=True, awaited=[inc("worker")])
    switch.worker("worker", held("front", 1))
    assert switch.front("front", FrontJob(1, 1))[-1] == Placed(1, 1, inc("worker"))
    switch.wait(2 * GRACE_S, alive=("front",))
    assert switch.mail("worker") == []
    switch.gone("worker")
    assert switch.mail("front")[-1] == Lost(1, 1, 0)


def test_nothing_is_placed_until_all_living_workers_have_spoken() -> None:
    switch = Switch(in_grace=True, awaited=[inc("w1"), inc("w2")])
    switch.front()
    switch.worker("w1")
    assert switch.say("front", submit(1, attempt=2))[-1] == Accepted(1, 2)
    assert switch.worker("w2", held("front", 1, attempt=1)) == [Abort(inc("front"), 1, 1)]
    assert switch.mail("front")[-1] == Placed(1, 2, inc("w1"))


def test_an_attempt_that_already_runs_is_not_run_twice() -> None:
    switch = Switch(in_grace=True, awaited=[inc("w1"), inc("w2")])
    switch.front()
    switch.worker("w1")
    switch.say("front", submit(1))
    switch.worker("w2", held("front", 1))
    assert switch.mail("front")[-1] == Placed(1, 1, inc("w2"))
    assert switch.mail("w1") == []


def test_an_awaited_worker_that_never_speaks_holds_nothing_up_for_longer_than_the_grace() -> None:
    switch = Switch(in_grace=True, awaited=[inc("dead")])
    switch.front()
    switch.worker()
    switch.say("front", submit(1))
    switch.wait(GRACE_S + 0.01)
    assert switch.mail("front")[-1] == Placed(1, 1, inc("worker"))


def test_a_claim_that_no_worker_knows_is_lost_once_all_have_spoken() -> None:
    switch = Switch(in_grace=True, awaited=[inc("worker")])
    assert kinds(switch.front("front", FrontJob(1, 3))) == [Welcome]
    switch.worker()
    assert switch.mail("front")[-1] == Lost(1, 3, 0)


@pytest.mark.parametrize("front_speaks", [True, False])
def test_what_no_front_claims_within_the_grace_is_aborted(front_speaks: bool) -> None:
    switch = Switch(in_grace=True)
    switch.worker("worker", held("front", 1))
    if front_speaks:
        switch.front()
    switch.wait(GRACE_S - 0.1)
    assert switch.mail("worker") == []
    switch.wait(0.2)
    assert switch.mail("worker") == [Abort(inc("front"), 1, 1)]


def test_a_submit_that_crossed_the_restart_claims_its_attempt() -> None:
    switch = Switch(in_grace=True)
    switch.worker("worker", held("front", 1))
    switch.front()
    assert switch.say("front", submit(1)) == [Placed(1, 1, inc("worker"))]
    switch.wait(2 * GRACE_S)
    assert switch.mail("worker") == []


def test_after_the_grace_a_worker_must_drop_what_nobody_knows() -> None:
    switch = Switch()
    switch.front()
    assert switch.worker("worker", held("front", 9)) == [Abort(inc("front"), 9, 1)]


def test_a_model_may_still_turn_up_within_the_grace() -> None:
    switch = Switch(in_grace=True)
    switch.front()
    assert switch.say("front", submit(1))[-1] == Accepted(1, 1)
    switch.worker()
    assert switch.mail("front")[-1] == Placed(1, 1, inc("worker"))


def test_a_model_that_does_not_turn_up_is_not_found() -> None:
    switch = Switch(in_grace=True)
    switch.front()
    switch.say("front", submit(1))
    switch.wait(2 * GRACE_S, alive=("front",))
    reject = switch.mail("front")[-1]
    assert isinstance(reject, Reject)
    assert reject.code == "model_not_found"


def test_a_front_that_was_taken_for_dead_gets_its_jobs_back_as_lost() -> None:
    switch = Switch()
    switch.front()
    switch.worker()
    switch.say("front", submit(1))
    switch.now += 1.0
    switch.beat("worker", held("front", 1), patience_ms=60_000)
    switch.go_silent()
    assert switch.say("front", Ping(inc("front"))) == [Who(EPOCH)]
    assert switch.front("front", FrontJob(1, 1))[-1] == Lost(1, 1, 0)


def test_models_are_known_by_their_id() -> None:
    switch = Switch()
    switch.worker(model="other")
    switch.front()
    (reject,) = switch.say("front", submit(1))
    assert isinstance(reject, Reject)
    assert (reject.code, MODEL in reject.words, "other" in reject.words) == ("model_not_found", True, True)


def test_a_claim_of_an_attempt_that_cannot_be_confirms_nothing() -> None:
    switch = Switch(in_grace=True)
    switch.worker("worker", held("front", 1, attempt=0))
    switch.wait(2 * GRACE_S)
    assert Abort(inc("front"), 1, 0) in switch.mail("worker")


def test_a_worker_cannot_become_a_front() -> None:
    switch = Switch()
    switch.worker("worker")
    (refused,) = switch.front("worker")
    assert isinstance(refused, Refused)
    assert "belongs to worker" in refused.words


# ---- whatever a peer may say

few_leaves = {
    bool: st.booleans(),
    int: st.sampled_from([0, 1, 1, 2, 3, PROTOCOL, -1, 2**63, -(2**63)]),
    float: st.sampled_from([0.0, 1.0]),
    str: st.sampled_from([MODEL, MODEL, "other", "ready", "loading", "draining", "crash", ""]),
    bytes: st.sampled_from([inc("a"), inc("b"), inc("c"), b""]),
    type(None): st.none(),
    Any: st.none(),
}
said = {
    peer: st.one_of([values(kind, few_leaves) for kind in get_args(role)])
    for peer, role in zip("abcd", (FrontToBroker, WorkerToBroker, AgentToBroker, ControlToBroker), strict=True)
}
in_role = st.one_of([st.tuples(st.just(peer), messages) for peer, messages in said.items()])
any_role = st.tuples(st.sampled_from("abcd"), st.one_of(list(said.values())) | st.none())
steps = st.tuples(in_role | any_role, st.sampled_from([0.0, 0.3, 5.0]))


@settings(max_examples=60)
@given(st.lists(steps, max_size=30))
def test_no_message_of_the_protocol_breaks_it(script: list[tuple[tuple[str, Message | None], float]]) -> None:
    """A bug in one peer must not end the broker for all. None in the script: the peer is gone."""
    switch = Switch(in_grace=True)
    switch.front("a")
    switch.worker("b")
    switch.agent("b", name="c")
    for (peer, message), pause_s in script:
        if message is None:
            switch.gone(peer)
        else:
            switch.tell(peer, message)
        switch.wait(pause_s)
