"""The agent's side of the broker's protocol."""

from tokenyard.broker.identity import Identity
from tokenyard.broker.wire import (
    PROTOCOL,
    AgentHello,
    Dismiss,
    Dying,
    Exited,
    Kill,
    Post,
    Refused,
    Retire,
    Retired,
    Spawn,
    Spawned,
    Welcome,
    Who,
)
from tokenyard.scripts.agency import MAX_ANSWERS, Agency, DismissPost, KillWorker, RetireWorker, Say, Send, StartWorker

ME = Identity.of(bytes(16))
W1, W2 = (bytes([n]) * 8 for n in (2, 3))


def make_agency(*numbers: int) -> Agency:
    agency = Agency(ME, 77, ["cpu"], [2], [1 << 30])
    for number in numbers:
        agency.added(post(number))
    return agency


def post(number: int, inc: bytes = b"", leaving: bool = False) -> Post:
    return Post(number, "demo", "demo", "cpu", inc, leaving=leaving)


def hello(*posts: Post, restarts: tuple[int, ...] = ()) -> Send:
    workers = sorted(one.inc for one in posts if one.inc)
    lives = list(restarts) or [0] * len(workers)
    mine = (["cpu"], workers, lives, list(posts), [2], [1 << 30], [], ME.secret, [b""] * len(workers))
    return Send(AgentHello(PROTOCOL, ME.inc, 77, *mine))


def test_hello_tells_who_lives_and_what_fills_the_devices() -> None:
    agency = make_agency(0, 1)
    assert agency.started(0, W2) == [hello(post(0, W2), post(1))]
    assert agency.started(1, W1, 3) == [hello(post(0, W2), post(1, W1), restarts=(3, 0))]
    assert agency.ended(0, "killed", "SIGKILL", False) == [Send(Exited(W2, "killed", "SIGKILL"))]
    assert agency.heard(Who(b"e" * 8)) == [hello(post(0), post(1, W1), restarts=(3,))]


def test_a_post_that_is_given_up_is_told_with_its_last_life() -> None:
    agency = make_agency(0, 1)
    agency.started(0, W1)
    exited = Send(Exited(W1, "crash", "no weights", True))
    assert agency.ended(0, "crash", "no weights", True) == [exited, hello(post(1))]
    assert agency.dropped(1) == [hello()]


def test_a_repeated_spawn_starts_one_worker() -> None:
    agency = make_agency()
    assert agency.heard(Spawn(5, "demo", "", True)) == [StartWorker(5, "demo", "", True)]
    agency.added(post(0))
    agency.started(0, W1)
    assert agency.spawned(5, W1) == [Send(Spawned(5, W1))]
    again = [Send(Spawned(5, W1)), hello(post(0, W1))]  # the first hello may have been lost
    assert agency.heard(Spawn(5, "demo", "", True)) == again
    assert agency.heard(Who(b"e" * 8)) == [hello(post(0, W1))]  # a new broker; its asker repeats the same request
    assert agency.heard(Spawn(5, "demo", "", True)) == again


def test_a_spawn_repeated_after_its_end_hears_of_that() -> None:
    agency = make_agency(0)
    agency.started(0, W1)
    agency.spawned(5, W1)
    exited, _ = agency.ended(0, "crash", "no weights", True)
    assert agency.heard(Spawn(5, "demo", "", True)) == [Send(Spawned(5, W1)), exited]


def test_an_impossible_spawn_is_answered() -> None:
    agency = make_agency()
    agency.heard(Spawn(5, "demo", "cuda:9"))
    exited = Send(Exited(W1, "crash", "no such device", True))
    assert agency.failed(5, W1, "no such device") == [Send(Spawned(5, W1)), exited]
    assert agency.heard(Spawn(5, "demo", "cuda:9")) == [Send(Spawned(5, W1)), exited]


def test_a_post_is_dismissed_once() -> None:
    agency = make_agency(0)
    agency.started(0, W1)
    assert agency.heard(Dismiss(0)) == [DismissPost(0), hello(post(0, W1, leaving=True))]
    assert agency.heard(Dismiss(0)) == []
    agency.ended(0, "drained", "ended as asked", True)
    assert agency.heard(Dismiss(0)) == [hello()]


def test_old_answers_are_forgotten() -> None:
    agency = make_agency()
    for req in range(MAX_ANSWERS + 1):
        agency.spawned(req, W1)
    assert agency.heard(Spawn(0, "demo", "")) == [StartWorker(0, "demo", "", False)]
    assert agency.heard(Spawn(1, "demo", ""))[0] == Send(Spawned(1, W1))


def test_only_living_workers_of_ours_are_killed() -> None:
    agency = make_agency(0)
    agency.started(0, W1)
    assert agency.heard(Kill(W2)) == []
    assert agency.heard(Kill(W1)) == [KillWorker(W1)]


def test_a_dying_worker_is_told_while_it_lives() -> None:
    agency = make_agency(0)
    agency.started(0, W1)
    assert agency.dying(W1) == [Send(Dying(W1))]
    agency.ended(0, "killed", "SIGKILL", False)
    assert agency.dying(W1) == [], "it has been reaped"


def test_who_is_killed_with_words_has_crashed() -> None:
    agency = make_agency(0)
    agency.started(0, W1)
    assert agency.verdict(W1) == ""
    assert agency.heard(Kill(W1, "hung")) == [KillWorker(W1)]
    assert agency.verdict(W1) == "hung"
    agency.ended(0, "crash", "hung", False)
    assert agency.verdict(W1) == ""


def test_troubles_are_told_when_they_change() -> None:
    agency = make_agency()
    (told,) = agency.troubled(["w died"])
    assert isinstance(told, Send)
    assert isinstance(told.message, AgentHello)
    assert told.message.troubles == ["w died"]
    assert agency.troubled(["w died"]) == []
    assert agency.heard(Who(b"e" * 8)) == [told]


def test_a_worker_is_replaced_by_a_new_post() -> None:
    agency = make_agency(0)
    agency.started(0, W1)
    assert agency.heard(Retire(W1, "auto", 30_000)) == [RetireWorker(0, "auto", 30.0)]
    assert agency.heard(Retire(W1, "auto", 30_000)) == [], "it is being done"
    assert agency.succeeds(1, 0) == [hello(post(0, W1, leaving=True), post(1)._replace(predecessor=W1))]
    agency.started(1, W2)
    told = Send(Retired(W1, W2, ""))
    agency.ended(0, "drained", "", True)
    assert agency.retired(0, "") == [hello(post(1, W2)._replace(predecessor=W1)), told]
    assert agency.heard(Retire(W1, "auto", 30_000)) == [told], "the answer may have been lost"


def test_a_worker_is_replaced_in_its_own_post() -> None:
    agency = make_agency(0)
    agency.started(0, W1)
    assert agency.heard(Retire(W1, "after", -1)) == [RetireWorker(0, "after", float("inf"))]
    assert agency.succeeds(0, 0) == [hello(post(0, W1)._replace(predecessor=W1))]
    agency.ended(0, "drained", "", False)
    agency.started(0, W2)
    assert agency.retired(0, "")[-1] == Send(Retired(W1, W2, ""))


def test_one_that_could_not_be_replaced_may_be_tried_again() -> None:
    agency = make_agency(0)
    agency.started(0, W1)
    agency.heard(Retire(W1, "auto", 0))
    agency.succeeds(1, 0)
    agency.dropped(1)
    assert agency.retired(0, "no memory") == [hello(post(0, W1)), Send(Retired(W1, b"", "no memory"))]
    assert agency.heard(Retire(W1, "auto", 0)) == [RetireWorker(0, "auto", 0.0)]


def test_a_worker_that_is_not_here_cannot_retire() -> None:
    agency = make_agency(0)
    (action,) = agency.heard(Retire(W1, "auto", 0))
    assert isinstance(action, Send)
    assert isinstance(action.message, Retired)
    assert action.message.words


def test_what_is_not_for_an_agent_is_said() -> None:
    agency = make_agency()
    for message in (Refused("go away"), Welcome(b"", [])):
        (action,) = agency.heard(message)
        assert isinstance(action, Say)
    assert agency.heard(Refused("go away")) == [], "it comes with each ping"
