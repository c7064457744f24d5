"""A bad neighbour among the broker's peers: what it says of others is refused and counted, and harms nobody."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import only, want
from switch import EPOCH, MODEL, Switch, card, held, inc, secret, submit

from tokenyard.broker import core, jobs, loads, recent, records
from tokenyard.broker.adapters import ADAPTER_BYTES, MAX_ADAPTERS_BYTES
from tokenyard.broker.codec import encode
from tokenyard.broker.core import WELCOME_WORKERS
from tokenyard.broker.errors import REFUSALS
from tokenyard.broker.gate import MAX_DESCRIPTION_BYTES
from tokenyard.broker.wire import (
    PROTOCOL,
    Accepted,
    Adapter,
    AddAdapter,
    AgentHello,
    Answer,
    Cancel,
    Done,
    DrainWorker,
    Dying,
    Exited,
    FrontHello,
    Goodbye,
    Message,
    Placed,
    Post,
    Refused,
    Reject,
    RemoveAdapter,
    Retired,
    Spawn,
    Spawned,
    Start,
    Status,
    UnloadModel,
    Want,
    Welcome,
    Who,
)

NAME_BYTES = 20_000
"""Of an adapter: a few are as many as there may be."""


def refused(switch: Switch) -> dict[str, int]:
    """As the broker's Status tells."""
    (answer,) = switch.say("onlooker", Status(1))
    assert isinstance(answer, Answer)
    counts: dict[str, int] = answer.body["broker"]["refused"]
    return counts


def pool() -> Switch:
    """A front with a job on a worker that an agent owns, and another agent with a worker of its own."""
    switch = Switch()
    switch.agent("worker")
    switch.agent("other", name="stranger")
    switch.worker()
    switch.front()
    switch.say("front", submit(1))
    assert isinstance(switch.mail("worker")[-1], Start)
    return switch


def asked(switch: Switch) -> Spawn:
    """The stranger has room for a model that a front wants: what it is asked."""
    switch.front()
    hello = AgentHello(PROTOCOL, inc("stranger"), 9, ["cpu"], [], slots=[1], secret=secret("stranger"))
    switch.say("stranger", hello)
    want(switch, "wanted")
    (spawn,) = only(switch.mail("stranger"), Spawn)
    assert isinstance(spawn, Spawn)
    return spawn


HELLOS = {
    "front": FrontHello(PROTOCOL, inc("front"), 9, []),
    "worker": Switch.hello("worker"),
    "agent": AgentHello(PROTOCOL, inc("agent"), 9, ["cpu"], []),
}


@pytest.mark.parametrize("shown", [b"", secret("thief")], ids=["no secret", "another's"])
@pytest.mark.parametrize("victim", HELLOS)
def test_nobody_takes_a_living_peers_place(victim: str, shown: bytes) -> None:
    switch = pool()
    (answer,) = switch.say("thief", HELLOS[victim]._replace(secret=shown))
    assert isinstance(answer, Refused)
    assert refused(switch) == {"identity": 1}
    assert switch.say("thief", Cancel(1)) == [Who(EPOCH)], "it is nobody"
    assert switch.mail("front") == switch.mail("worker") == switch.mail("agent") == [], "they heard of nothing"
    assert isinstance(switch.say("front", submit(2))[0], Placed)
    switch.say("worker", Done(inc("front"), 1, 1, "stop"))
    switch.say("agent", Exited(inc("worker"), "killed", ""))
    assert switch.core._state.workers == {}


@pytest.mark.parametrize("victim", HELLOS)
def test_nobody_takes_the_place_of_one_that_a_new_broker_does_not_know_yet(victim: str) -> None:
    switch = Switch(in_grace=True)
    (answer,) = switch.say("thief", HELLOS[victim]._replace(secret=b""))
    assert isinstance(answer, Refused)
    assert not switch.core._state.peers


def test_who_has_the_secret_comes_back_at_once_over_any_connection() -> None:
    switch = pool()
    switch.worker("worker", held("front", 1), peer="again")
    switch.front("front", peer="anew")
    assert refused(switch) == {}
    assert isinstance(switch.say("anew", submit(2))[0], Placed)
    assert isinstance(switch.mail("again")[0], Start)


def test_one_connection_is_one_peer() -> None:
    switch = pool()
    assert isinstance(switch.say("worker", Switch.hello("second"))[0], Refused)
    assert isinstance(switch.say("front", Switch.hello("second"))[0], Refused)
    assert isinstance(switch.say("worker", submit(1))[0], Refused)
    assert refused(switch) == {"identity": 2, "role": 1}


@pytest.mark.parametrize("victim", HELLOS)
def test_nobody_says_anothers_goodbye(victim: str) -> None:
    switch = pool()
    for liar in ("stranger", "nobody"):
        assert isinstance(switch.say(liar, Goodbye(inc(victim), "a crash"))[0], Refused)
    assert refused(switch) == {"identity": 2}
    assert {inc(name) for name in HELLOS} <= {peer.inc for peer in switch.core._state.peers.values()}


@pytest.mark.parametrize("word", [Exited(inc("worker"), "crash", "made up"), Dying(inc("worker"))], ids=str)
def test_an_agent_speaks_of_its_own_workers_only(word: Message) -> None:
    switch = pool()
    (answer,) = switch.say("stranger", word)
    assert isinstance(answer, Refused)
    assert switch.mail("front") == []
    # Nor when the worker is dead already, and only its agent knows why.
    switch.gone("worker")
    assert isinstance(switch.say("stranger", word)[0], Refused)
    assert refused(switch) == {"ownership": 2}
    switch.say("agent", Exited(inc("worker"), "killed", ""))
    (lost,) = switch.mail("front")[-1:]
    assert lost == type(lost)(1, 1, 0), "no crash was counted"


def test_an_agent_claims_no_worker_without_its_secret_and_with_it_at_any_time() -> None:
    switch = Switch()
    switch.worker()
    claim = AgentHello(PROTOCOL, inc("stranger"), 9, ["cpu"], [inc("worker")], secret=secret("stranger"))
    for proofs in ([], [b""], [secret("stranger")]):
        switch.say("stranger", claim._replace(proofs=proofs))
    assert (switch.core._state.owners, refused(switch)) == ({}, {"ownership": 3})
    switch.mail("stranger")
    switch.say("stranger", Spawned(asked(switch).req, inc("worker")))
    switch.agent("worker")
    assert switch.core._state.owners == {inc("worker"): switch.core._state.agents[inc("agent")]}


def test_an_agent_claims_no_worker_that_has_another() -> None:
    switch = pool()
    claim = AgentHello(PROTOCOL, inc("stranger"), 9, ["cpu"], [inc("worker")], secret=secret("stranger"))
    switch.say("stranger", claim)
    switch.say("stranger", Spawned(1, inc("worker")))
    switch.say("stranger", Exited(inc("worker"), "crash", "made up"))
    assert refused(switch) == {"ownership": 2}
    assert switch.core._state.workers[inc("worker")].placements


def test_an_agent_gets_no_worker_by_an_answer_to_what_it_was_not_asked() -> None:
    switch = Switch()
    spawn = asked(switch)
    switch.agent(name="other")
    switch.worker("alone")
    for liar, req in (("stranger", spawn.req + 1), ("other", spawn.req)):
        assert switch.say(liar, Spawned(req, inc("alone"))) == [], "it may be a repeat"
        assert isinstance(switch.say(liar, Exited(inc("alone"), "crash", "made up"))[0], Refused)
    switch.say("stranger", Spawned(spawn.req, inc("new")))
    assert switch.core._state.owners == {inc("new"): switch.core._state.agents[inc("stranger")]}


def test_a_word_on_a_worker_that_nobody_knows_harms_nobody_and_is_not_counted() -> None:
    """An agent may repeat itself."""
    switch = pool()
    assert switch.say("stranger", Exited(inc("gone"), "crash", "")) == []
    assert refused(switch) == {}


def test_only_the_agent_that_was_asked_says_that_a_worker_has_retired() -> None:
    switch = pool()
    switch.say("operator", DrainWorker(1, inc("worker")))
    assert isinstance(switch.say("stranger", Retired(inc("worker"), b"", ""))[0], Refused)
    assert switch.mail("operator") == []
    switch.say("agent", Exited(inc("worker"), "drained", "", True))
    switch.say("agent", Retired(inc("worker"), b"", ""))
    assert switch.mail("operator") == [Answer(1, "", {"successor": ""})]
    assert refused(switch) == {"ownership": 1}


# How much there may be


def test_a_worker_that_describes_itself_at_length_is_refused() -> None:
    switch = Switch()
    switch.front()
    for fields in ({"generation_config": {"x": "y" * MAX_DESCRIPTION_BYTES}}, {"eos_token_ids": [1 << 20] * 8000}):
        (answer,) = switch.say("worker", Switch.hello("worker", **fields))
        assert isinstance(answer, Refused)
        assert "bytes" in answer.words
    assert refused(switch) == {"oversized": 2}
    assert switch.mail("front") == []


def test_a_welcome_fits_in_a_frame_however_long_its_cards_are() -> None:
    switch = Switch()
    base = {"generation_config": {"x": "y" * (MAX_DESCRIPTION_BYTES - 400)}}
    num_fitting = MAX_ADAPTERS_BYTES // (ADAPTER_BYTES + NAME_BYTES)
    for index in range(WELCOME_WORKERS):
        switch.worker(f"w{index}", **base)
    adapters = [
        Adapter(f"{index:03}".ljust(NAME_BYTES - len(MODEL), "."), MODEL, "", 1) for index in range(num_fitting + 1)
    ]
    for req, adapter in enumerate(adapters):
        answers = switch.say("front", AddAdapter(req, adapter, False))
        assert bool(answers) == (req == num_fitting), "the last one is too much"
        if answers:
            assert isinstance(answers[0], Answer)
            assert "as many lora adapters as it may" in answers[0].error
            break
        for index in range(WELCOME_WORKERS):
            loaded = [one._replace(version="v") for one in adapters[: req + 1]]
            switch.worker(f"w{index}", adapters=loaded, **base)
    (welcome,) = switch.front()
    assert isinstance(welcome, Welcome)
    assert len(welcome.workers) == WELCOME_WORKERS
    assert len(welcome.workers[0].card.adapters) == num_fitting
    encode(welcome)
    switch.worker("w0", adapters=[one._replace(version="v") for one in adapters], **base)
    assert len(switch.core._state.adapters) == num_fitting, "nor by a worker that has one more"


def test_resumed_jobs_make_no_names_and_no_queue_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_MODELS", 2)
    monkeypatch.setattr(jobs, "MAX_RESUMED", 3)
    switch = Switch()
    switch.front()
    assert [type(switch.say("front", submit(job, 2, f"model {job}"))[0]) for job in range(3)] == [
        *[Accepted] * 2,
        Reject,
    ]
    answers = [switch.say("front", submit(job, 2, "model 1"))[0] for job in (3, 4)]
    assert [type(answer) for answer in answers] == [Accepted, Reject]
    assert len(switch.core._state.models) == 2


def test_of_requests_the_latest_are_remembered_and_those_that_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_REQUESTS", 3)
    switch = pool()
    parts = switch.core
    memories: list[recent.Recent[Any]] = [
        *(parts._retiring._requests, parts._loads._room._unloading, parts._adapters._answers)
    ]
    post = Post(0, "model", "model", "cpu", inc("worker"))
    shown = {"secret": secret("agent"), "proofs": [secret("worker")]}
    switch.say("agent", AgentHello(PROTOCOL, inc("agent"), 9, ["cpu"], [inc("worker")], posts=[post])._replace(**shown))
    asked = (DrainWorker(0, inc("worker")), UnloadModel(0, "model"), RemoveAdapter(0, "m"))
    for req in range(1, 10):
        for message in asked:
            switch.tell("operator", message._replace(req=1))
            switch.tell("stranger", message._replace(req=req))
    assert [len(memory) for memory in memories] == [3] * 3
    assert all(memory.get((b"operator", 1)) for memory in memories[:2])
    switch.wait(70, alive=("agent", "stranger", "front"))
    assert [len(memory) for memory in memories] == [0] * 3


def test_names_that_are_made_up_become_neither_many_nor_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_MODELS", 4)
    monkeypatch.setattr(records, "MAX_MODELS", 4)
    monkeypatch.setattr(loads, "MAX_MODELS", 4)
    monkeypatch.setattr(loads, "MAX_LOADS", 2)
    switch = pool()
    state = switch.core._state
    shown = {"secret": secret("agent"), "proofs": [secret("worker")]}
    switch.say("agent", AgentHello(PROTOCOL, inc("agent"), 9, ["cpu"], [inc("worker")], slots=[1])._replace(**shown))
    assert isinstance(switch.say("front", submit(2, 2, "x" * (records.MAX_NAME + 1)))[0], Reject)
    for index in range(9):
        switch.worker(f"w{index}", model=f"made up {index}")
        switch.say(f"w{index}", Goodbye(inc(f"w{index}"), "a crash"))
    switch.wait(core.SWEEP_S * 2, alive=("front", "worker", "agent"))
    assert (len(state.models), MODEL in state.models) == (4, True)
    assert state.num_lost == {**{f"made up {index}": 1 for index in range(4)}, "others": 5}
    for name in ("x" * (records.MAX_NAME + 1), *"abcdef"):
        switch.say("front", Want(name, name, 0))
    assert (len(switch.core._loads._loads), list(state.recipes)) == (2, ["a", "b"])


# Whatever a liar says


LIES = st.one_of(
    st.builds(FrontHello, st.just(PROTOCOL), st.sampled_from([inc("front"), inc("new")]), st.just(1), st.just([])),
    st.builds(lambda name, jobs: Switch.hello(name, *jobs)._replace(secret=b""), st.sampled_from(["worker", "new"]),
              st.sampled_from([(), (held("front", 1),)])),
    st.builds(AgentHello, st.just(PROTOCOL), st.just(inc("agent")), st.just(1), st.just(["cpu"]), st.just([])),
    st.builds(Goodbye, st.sampled_from([inc(name) for name in HELLOS]), st.sampled_from(["", "a crash"])),
    st.builds(Exited, st.just(inc("worker")), st.sampled_from(["crash", "killed"]), st.just(""), st.just(True)),
    st.builds(Dying, st.just(inc("worker"))),
    st.builds(Retired, st.just(inc("worker")), st.just(b""), st.just("")),
    st.builds(Spawned, st.integers(0, 2), st.just(inc("worker"))),
    st.builds(Done, st.just(inc("front")), st.just(1), st.just(1), st.just("stop")),
    st.builds(Cancel, st.just(1)),
)  # fmt: skip


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["stranger", "thief", "other"]), LIES), max_size=12))
def test_whatever_liars_say_the_stream_goes_on_and_its_neighbours_hear_nothing(lies: list[tuple[str, Any]]) -> None:
    """Of a second agent, of its worker, and of a connection that belongs to nobody; invariants hold after each."""
    switch = pool()
    switch.worker("other", model="another")
    switch.mail("front")
    num_before = sum(refused(switch).values())
    for liar, lie in lies:
        switch.tell(liar, lie)
    assert switch.mail("front") == []
    assert switch.mail("worker") == []
    (key,) = switch.core._state.workers[inc("worker")].placements
    assert key == held("front", 1)
    assert switch.core._state.workers[inc("worker")].card == card()
    assert not [job for job in switch.core._state.fronts[inc("front")].jobs.values() if job.crashes]
    counts = refused(switch)
    assert set(counts) <= set(REFUSALS)
    assert sum(counts.values()) - num_before <= len(lies)
