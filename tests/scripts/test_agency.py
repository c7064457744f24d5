"""The agent's side of the broker's protocol."""

from tokenyard.broker.wire import PROTOCOL, AgentHello, Exited, Kill, Refused, Spawn, Spawned, Welcome, Who
from tokenyard.scripts.agency import MAX_ANSWERS, Agency, KillWorker, Say, Send, StartWorker

INC, W1, W2 = (bytes([n]) * 8 for n in (1, 2, 3))


def make_agency() -> Agency:
    return Agency(INC, 77, ["cpu"])


def hello(*workers: bytes, restarts: tuple[int, ...] = ()) -> Send:
    lives = list(restarts) or [0] * len(workers)
    return Send(AgentHello(PROTOCOL, INC, 77, ["cpu"], list(workers), lives))


def test_hello_tells_who_lives() -> None:
    agency = make_agency()
    assert agency.started(W2) == [hello(W2)]
    assert agency.started(W1, 3) == [hello(W1, W2, restarts=(3, 0))]
    assert agency.ended(W2, "killed", "SIGKILL") == [Send(Exited(W2, "killed", "SIGKILL"))]
    assert agency.heard(Who(b"e" * 8)) == [hello(W1, restarts=(3,))]


def test_a_repeated_spawn_starts_one_worker() -> None:
    agency = make_agency()
    assert agency.heard(Spawn(5, "demo", "")) == [StartWorker(5, "demo", "")]
    assert agency.spawned(5, W1) == [Send(Spawned(5, W1))]
    assert agency.heard(Spawn(5, "demo", "")) == [Send(Spawned(5, W1))]
    assert agency.heard(Who(b"e" * 8)) == [hello()]  # a new broker; its asker repeats the same request
    assert agency.heard(Spawn(5, "demo", "")) == [Send(Spawned(5, W1))]


def test_an_impossible_spawn_is_answered() -> None:
    agency = make_agency()
    agency.heard(Spawn(5, "demo", "cuda:9"))
    assert agency.failed(5, W1, "no such device") == [Send(Spawned(5, W1)), Send(Exited(W1, "crash", "no such device"))]


def test_old_answers_are_forgotten() -> None:
    agency = make_agency()
    for req in range(MAX_ANSWERS + 1):
        agency.spawned(req, W1)
    assert agency.heard(Spawn(0, "demo", "")) == [StartWorker(0, "demo", "")]
    assert agency.heard(Spawn(1, "demo", "")) == [Send(Spawned(1, W1))]


def test_only_living_workers_of_ours_are_killed() -> None:
    agency = make_agency()
    agency.started(W1)
    assert agency.heard(Kill(W2)) == []
    assert agency.heard(Kill(W1)) == [KillWorker(W1)]


def test_who_is_killed_with_words_has_crashed() -> None:
    agency = make_agency()
    agency.started(W1)
    assert agency.verdict(W1) == ""
    assert agency.heard(Kill(W1, "hung")) == [KillWorker(W1)]
    assert agency.verdict(W1) == "hung"
    agency.ended(W1, "crash", "hung")
    assert agency.verdict(W1) == ""


def test_troubles_are_told_when_they_change() -> None:
    agency = make_agency()
    (told,) = agency.troubled(["w died"])
    assert isinstance(told, Send)
    assert isinstance(told.message, AgentHello)
    assert told.message.troubles == ["w died"]
    assert agency.troubled(["w died"]) == []
    assert agency.heard(Who(b"e" * 8)) == [told]


def test_what_is_not_for_an_agent_is_said() -> None:
    agency = make_agency()
    for message in (Refused("go away"), Welcome(b"", [])):
        (action,) = agency.heard(message)
        assert isinstance(action, Say)
