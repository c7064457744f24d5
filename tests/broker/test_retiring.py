"""Emptying and replacing a worker: who is asked, and when its operator is answered."""

from typing import Any

from switch import Switch, inc, secret

from tokenyard.broker.wire import (
    PROTOCOL,
    AgentHello,
    Answer,
    Drain,
    DrainWorker,
    Goodbye,
    Post,
    Retire,
    Retired,
    WorkerDown,
)

ASKED = DrainWorker(1, inc("w"), "auto", 30_000)


def post(number: int, worker: str, predecessor: str = "") -> Post:
    return Post(number, "m", "m", "cpu", inc(worker), predecessor=inc(predecessor) if predecessor else b"")


def shown(worker: str) -> dict[str, Any]:
    """What the agent's hello proves."""
    return {"secret": secret("agent"), "proofs": [secret(worker)]}


def owned() -> Switch:
    switch = Switch()
    switch.say(
        "agent",
        AgentHello(PROTOCOL, inc("agent"), 3, ["cpu"], [inc("w")], posts=[post(0, "w")], **shown("w")),
    )
    switch.worker("w")
    return switch


def test_its_agent_is_asked_until_it_says_that_all_is_done() -> None:
    switch = owned()
    for _ in range(2):
        assert switch.say("operator", ASKED) == []
        assert switch.mail("agent") == [Retire(inc("w"), "auto", 30_000)]
        assert switch.mail("w") == [], "only the agent knows when"
    switch.tell("agent", Retired(inc("w"), inc("new"), ""))
    answer = Answer(1, "", {"successor": inc("new").hex()})
    assert switch.mail("operator") == [answer]
    assert switch.say("operator", ASKED) == [answer], "the answer may have been lost"
    assert switch.mail("agent") == []


def test_words_of_the_agent_are_told() -> None:
    switch = owned()
    switch.say("operator", ASKED)
    switch.tell("agent", Retired(inc("w"), b"", "its successor died 5 times"))
    (answer,) = switch.mail("operator")
    assert answer == Answer(1, "its successor died 5 times", {"successor": ""})


def test_a_new_broker_finds_the_agent_although_the_worker_has_gone() -> None:
    """It knows nothing of the request, and the worker's place is another's."""
    switch = Switch()
    posts = [post(1, "new", predecessor="w")]
    switch.say("agent", AgentHello(PROTOCOL, inc("agent"), 3, ["cpu"], [inc("new")], posts=posts, **shown("new")))
    assert switch.say("operator", ASKED) == []
    assert switch.mail("agent") == [Retire(inc("w"), "auto", 30_000)]


def test_a_worker_that_no_agent_owns_is_drained_but_not_replaced() -> None:
    switch = Switch()
    switch.front()
    switch.worker("w")
    (answer,) = switch.say("operator", ASKED)
    assert isinstance(answer, Answer)
    assert answer.error.startswith("no agent owns")
    assert switch.mail("w") == []
    ending = DrainWorker(2, inc("w"))
    for _ in range(2):
        assert switch.say("operator", ending) == []
        assert switch.mail("w") == [Drain()]
    switch.say("w", Goodbye(inc("w")))
    assert switch.mail("front")[-1] == WorkerDown(inc("w"))
    assert switch.say("operator", ending) == [Answer(2, "", {"successor": ""})]


def test_what_cannot_be_is_refused() -> None:
    switch = owned()
    (answer,) = switch.say("operator", DrainWorker(1, inc("nobody")))
    assert answer == Answer(1, f"no worker {inc('nobody').hex()}")
    (answer,) = switch.say("operator", DrainWorker(2, inc("w"), "sometimes"))
    assert isinstance(answer, Answer)
    assert answer.error == "successor 'sometimes' is none of none, auto, before, after"
    assert switch.mail("agent") == []


def test_old_requests_are_forgotten() -> None:
    switch = owned()
    switch.say("operator", ASKED)
    switch.wait(70.0, alive=("agent",))
    assert not switch.core._retiring._requests
