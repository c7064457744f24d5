"""Adapters in the broker: which worker is told what, which job waits for what, and who is answered when."""

from typing import Any

from switch import MODEL, Switch, card, inc, submit

from tokenyard.broker.adapters import REPEAT_S, RETRY_S
from tokenyard.broker.config import BEAT_S, GRACE_S
from tokenyard.broker.core import SWEEP_S
from tokenyard.broker.wire import (
    Accepted,
    Adapter,
    AdapterFailed,
    AddAdapter,
    Answer,
    LoadAdapter,
    Message,
    Placed,
    Reject,
    RemoveAdapter,
    Start,
    Status,
    UnloadAdapter,
    WorkerUp,
)

X = Adapter("x", MODEL, "/loras/x", 5)
GIVEN = X._replace(stamp=0)


def loaded(adapter: Adapter, version: str = "v1") -> Adapter:
    return adapter._replace(version=version)


def add(
    switch: Switch, adapter: Adapter = X, replace: bool = False, req: int = 1, front: str = "front"
) -> list[Message]:
    return switch.say(front, AddAdapter(req, adapter, replace))


def remove(switch: Switch, name: str = "x", req: int = 2) -> list[Message]:
    return switch.say("front", RemoveAdapter(req, name))


def has(switch: Switch, worker: str, *adapters: Adapter, **fields: Any) -> list[Message]:
    """The worker says that these are loaded."""
    return switch.worker(worker, adapters=list(adapters), **fields)


def of(kind: type, mail: list[Message]) -> list[Any]:
    return [message for message in mail if isinstance(message, kind)]


def shown(mail: list[Message]) -> list[Adapter]:
    """What the last WorkerUp of a mail tells of."""
    adapters: list[Adapter] = of(WorkerUp, mail)[-1].worker.card.adapters
    return adapters


def up(switch: Switch, *workers: str) -> None:
    """A front, workers, and X on all of them."""
    switch.front()
    for worker in workers:
        switch.worker(worker)
    add(switch)
    for worker in workers:
        has(switch, worker, loaded(X))
    assert of(Answer, switch.mail("front"))[-1] == Answer(1, "")


def test_it_is_offered_once_every_worker_has_it() -> None:
    switch = Switch()
    switch.front()
    switch.worker("a")
    switch.worker("b")
    assert add(switch) == []
    assert switch.mail("a") == switch.mail("b") == [LoadAdapter(X)]
    has(switch, "a", loaded(X))
    assert switch.mail("front") == []
    assert of(Reject, switch.say("front", submit(1, model="x")))[0].code == "model_not_found"
    has(switch, "b", loaded(X))
    mail = switch.mail("front")
    assert mail[-1] == Answer(1, "")
    assert shown(mail) == [loaded(X)], "told before the answer"
    assert add(switch) == [Answer(1, "")], "an answer that was not heard"
    assert switch.mail("a") == switch.mail("b") == []


def test_an_order_is_repeated_until_the_card_shows_it() -> None:
    switch = Switch()
    switch.front()
    switch.worker()
    add(switch)
    switch.mail("worker")
    switch.wait(REPEAT_S + SWEEP_S, alive=("front",))
    switch.beat("worker")
    switch.wait(REPEAT_S + SWEEP_S, alive=("front",))
    assert switch.mail("worker") == [LoadAdapter(X)]
    has(switch, "worker", loaded(X))
    switch.wait(3 * REPEAT_S, alive=("front",))
    assert switch.mail("worker") == []


def test_one_that_fails_leaves_it_nowhere() -> None:
    switch = Switch()
    switch.front()
    switch.worker("a")
    switch.worker("b")
    add(switch)
    switch.mail("a")
    has(switch, "a", loaded(X))
    switch.tell("b", AdapterFailed("x", 5, "invalid_value", "rank 99", "lora_path"))
    assert switch.mail("front") == [Answer(1, "rank 99", {"code": "invalid_value", "param": "lora_path"})]
    assert switch.mail("a") == [UnloadAdapter("x", 5)]
    has(switch, "a", loaded(X))  # sent before it heard
    assert of(WorkerUp, switch.mail("front")) == []
    assert of(Reject, switch.say("front", submit(1, model="x")))[0].code == "model_not_found"
    again = X._replace(stamp=6)
    switch.mail("b")
    assert add(switch, again, req=9) == []
    assert of(LoadAdapter, switch.mail("b")) == [LoadAdapter(again)]


def test_two_versions_of_one_load_are_none() -> None:
    switch = Switch()
    switch.front()
    switch.worker("a")
    switch.worker("b")
    add(switch)
    has(switch, "a", loaded(X, "v1"))
    has(switch, "b", loaded(X, "v2"))
    (answer,) = of(Answer, switch.mail("front"))
    assert "changed while workers loaded it" in answer.error


def test_a_worker_that_leaves_is_not_waited_for() -> None:
    switch = Switch()
    switch.front()
    switch.worker("a")
    switch.worker("b")
    add(switch)
    has(switch, "a", loaded(X))
    switch.gone("b")
    assert of(Answer, switch.mail("front")) == [Answer(1, "")]
    switch.gone("a")
    (answer,) = add(switch, X._replace(name="y", stamp=7), req=4)
    assert isinstance(answer, Answer)
    assert answer.body["code"] == "pool_unavailable"


def test_names_are_taken_once() -> None:
    switch = Switch()
    up(switch, "worker")
    (answer,) = add(switch, X._replace(stamp=6), req=3)
    assert isinstance(answer, Answer)
    assert "has already been loaded" in answer.error
    assert answer.body == {"code": "invalid_value"}
    (answer,) = add(switch, X._replace(name=MODEL, stamp=6), req=4)
    assert isinstance(answer, Answer)
    assert "is the name of a model" in answer.error
    (answer,) = add(switch, X._replace(base="other", stamp=6), replace=True, req=5)
    assert isinstance(answer, Answer)
    assert f"is an adapter of {MODEL}" in answer.error
    add(switch, X._replace(name="y", stamp=6), req=6)
    (answer,) = add(switch, X._replace(name="y", stamp=7), req=7)
    assert isinstance(answer, Answer)
    assert "is being loaded already" in answer.error


# Jobs.


def test_a_worker_cannot_bring_one_by_the_name_of_another_model() -> None:
    switch = Switch()
    switch.front()
    switch.worker("a")
    has(switch, "b", Adapter(MODEL, "other", "/loras/x", 1, "v1"), model="other")
    assert of(Placed, switch.say("front", submit(1))) == [Placed(1, 1, inc("a"))]
    assert switch.core.handle(b"front", Status(3), switch.now)[0][1].body["adapters"] == []  # type: ignore[union-attr]


def test_a_job_starts_with_the_adapter_that_it_names() -> None:
    switch = Switch()
    up(switch, "worker")
    switch.mail("worker")
    assert of(Placed, switch.say("front", submit(1, model="x")))
    assert of(Placed, switch.say("front", submit(2)))
    with_it, without = of(Start, switch.mail("worker"))
    assert (with_it.adapter, with_it.version) == ("x", "v1")
    assert (without.adapter, without.version) == ("", "")


def test_a_worker_that_comes_back_comes_back_with_them() -> None:
    """Jobs for the adapter wait for it, others do not."""
    switch = Switch()
    up(switch, "worker")
    switch.gone("worker")
    assert of(Accepted, switch.say("front", submit(1, model="x")))
    for number in range(2, 4):
        assert of(Accepted, switch.say("front", submit(number)))
    mail = switch.worker("again")
    assert of(LoadAdapter, mail) == [LoadAdapter(loaded(X))], "the very version"
    assert [start.job for start in of(Start, mail)] == [2, 3], "those behind it do not wait"
    assert [start.job for start in of(Start, has(switch, "again", loaded(X)))] == [1]


def test_only_workers_that_have_it_get_its_jobs() -> None:
    switch = Switch()
    up(switch, "a")
    switch.worker("b", capacity=9)
    switch.mail("a")
    switch.mail("b")
    for number in range(1, 7):
        switch.say("front", submit(number, model="x"))
    assert len(of(Start, switch.mail("a"))) == 4, "its capacity"
    assert of(Start, switch.mail("b")) == []
    for number in range(7, 9):
        assert of(Placed, switch.say("front", submit(number)))
    assert [start.job for start in of(Start, switch.mail("b"))] == [7, 8]
    assert [start.job for start in of(Start, has(switch, "b", loaded(X), capacity=9))] == [5, 6]


def test_suspects_go_to_a_worker_that_has_it() -> None:
    switch = Switch()
    up(switch, "a")
    switch.worker("b", capacity=9)
    switch.mail("a")
    for number, crashes in ((1, 1), (2, 2)):
        switch.say("front", submit(number, 2, model="x", crashes=crashes))
    assert len(of(Start, switch.mail("a"))) == 1, "the one with two counts runs alone"
    assert of(Start, switch.mail("b")) == []


def test_files_that_are_others_by_now_count_once_nobody_has_the_old_ones() -> None:
    switch = Switch()
    up(switch, "a", "b")
    changed = AdapterFailed("x", 5, "pool_unavailable", "not those that were loaded before")
    switch.gone("b")
    switch.worker("b2")
    switch.tell("b2", changed)
    switch.say("front", submit(1, model="x"))
    assert of(Start, switch.mail("a")), "the other goes on with what it has"
    switch.gone("a")
    switch.wait(BEAT_S, alive=("front",))
    switch.say("front", submit(1, 2, model="x", version="v1"))
    switch.say("front", submit(2, model="x"))
    switch.mail("front")
    switch.tell("b2", changed)
    assert of(LoadAdapter, switch.mail("b2"))[-1] == LoadAdapter(X), "any version"
    (start,) = of(Start, has(switch, "b2", loaded(X, "v2")))
    assert (start.job, start.version) == (2, "v2")
    (reject,) = of(Reject, switch.mail("front"))
    assert (reject.job, reject.code) == (1, "pool_unavailable"), "half of it is of the old one"
    assert "x has changed meanwhile" in reject.words


# Replacing and removing.


def test_the_old_one_serves_until_every_worker_has_the_new_one() -> None:
    switch = Switch()
    up(switch, "a", "b")
    new = X._replace(stamp=9, source="/loras/x2")
    add(switch, new, replace=True, req=3)
    has(switch, "a", loaded(X), loaded(new, "v2"))
    switch.mail("a")
    switch.mail("b")
    for number in (1, 2):
        switch.say("front", submit(number, model="x"))
    starts = of(Start, switch.mail("a") + switch.mail("b"))
    assert [start.version for start in starts] == ["v1", "v1"]
    has(switch, "b", loaded(X), loaded(new, "v2"))
    mail = switch.mail("front")
    assert mail[-1] == Answer(3, "")
    assert shown(mail) == [loaded(new, "v2")]
    assert switch.mail("a") == [UnloadAdapter("x", 5)]
    switch.say("front", submit(3, model="x"))
    assert [start.version for start in of(Start, switch.mail("a") + switch.mail("b"))] == ["v2"]
    (reject,) = switch.say("front", submit(1, 2, model="x", version="v1"))
    assert isinstance(reject, Reject)
    assert "x has changed meanwhile" in reject.words
    has(switch, "a", loaded(X), loaded(new, "v2"))  # sent before it heard
    assert switch.core._state.adapters["x"].adapter == loaded(new, "v2")


def test_one_that_cannot_take_the_place_leaves_the_old_one() -> None:
    switch = Switch()
    up(switch, "worker")
    switch.mail("worker")
    add(switch, X._replace(stamp=9), replace=True, req=3)
    switch.tell("worker", AdapterFailed("x", 9, "invalid_value", "no"))
    assert of(Answer, switch.mail("front")) == [Answer(3, "no", {"code": "invalid_value"})]
    switch.mail("worker")
    switch.say("front", submit(1, model="x"))
    assert of(Start, switch.mail("worker"))[0].version == "v1"


def test_removed_it_is_unknown_and_the_answer_waits_for_the_workers() -> None:
    switch = Switch()
    up(switch, "worker")
    for number in range(1, 6):
        switch.say("front", submit(number, model="x"))
    mail = remove(switch)
    assert [(one.job, one.code) for one in of(Reject, mail)] == [(5, "model_not_found")], "the one that waited"
    assert shown(mail) == []
    assert of(Answer, mail) == []
    assert of(UnloadAdapter, switch.mail("worker")) == [UnloadAdapter("x", 5)]
    assert remove(switch) == []
    has(switch, "worker", loaded(X))  # sent before it heard
    assert "x" not in switch.core._state.adapters
    has(switch, "worker")
    assert switch.mail("front") == [Answer(2, "")]
    assert remove(switch) == [Answer(2, "")]
    (answer,) = remove(switch, req=7)
    assert isinstance(answer, Answer)
    assert answer.body == {"code": "model_not_found"}
    assert add(switch, X._replace(stamp=8), req=8) == [], "its name is free again"


# A new broker, and adapters that are there from the start.


def test_a_new_broker_learns_from_the_workers() -> None:
    switch = Switch(in_grace=True)
    switch.front()
    switch.say("front", submit(1, 2, model="x", version="v1"))
    switch.worker("a")
    assert switch.mail("a") == []
    mail = has(switch, "b", loaded(X))
    assert [start.job for start in of(Start, mail)] == [1], "queued before anybody knew the adapter"
    assert shown(switch.mail("front")) == [loaded(X)]
    assert of(LoadAdapter, switch.mail("a")) == [LoadAdapter(loaded(X))]
    assert add(switch) == [], "the same request again: the other worker is awaited"
    has(switch, "a", loaded(X))
    assert add(switch) == [Answer(1, "")]


def test_of_one_name_the_latest_counts() -> None:
    switch = Switch(in_grace=True)
    new = loaded(X._replace(stamp=9), "v2")
    switch.front()
    has(switch, "a", loaded(X))
    has(switch, "b", loaded(X), new)
    assert shown(switch.mail("front")) == [new]
    assert of(LoadAdapter, switch.mail("a")) == [LoadAdapter(new)]


def test_given_ones_are_offered_before_they_are_loaded() -> None:
    switch = Switch(adapters=[GIVEN])
    switch.front()
    assert of(Accepted, switch.say("front", submit(1, model="x")))
    mail = switch.worker()
    assert mail == [LoadAdapter(GIVEN)]
    assert shown(switch.mail("front")) == [GIVEN]
    assert of(Placed, switch.say("front", submit(2)))
    (start,) = of(Start, has(switch, "worker", loaded(GIVEN)))
    assert (start.job, start.version) == (1, "v1")
    assert shown(switch.mail("front")) == [loaded(GIVEN)]


def test_a_given_one_that_cannot_be_loaded_is_said_and_tried_again() -> None:
    switch = Switch(adapters=[GIVEN])
    switch.front()
    switch.worker()
    switch.say("front", submit(1, model="x"))
    switch.tell("worker", AdapterFailed("x", 0, "model_not_found", "there is no directory"))
    (reject,) = of(Reject, switch.mail("front"))
    assert "there is no directory" in reject.words
    (reject,) = of(Reject, switch.say("front", submit(2, model="x")))
    assert "there is no directory" in reject.words
    (answer,) = of(Answer, switch.say("front", Status(4)))
    assert [(one["name"], one["state"]) for one in answer.body["adapters"]] == [("x", "failed")]
    switch.mail("worker")
    for _ in range(int(RETRY_S) + 1):
        switch.wait(1, alive=("front",))
        switch.beat("worker")
    assert switch.core._state.adapters["x"].words
    assert has(switch, "worker", loaded(GIVEN)) is not None
    assert of(Placed, switch.say("front", submit(3, model="x")))


def test_a_kept_out_worker_is_told_nothing() -> None:
    switch = Switch(adapters=[GIVEN])
    has(switch, "a", loaded(GIVEN))
    other = card(commit="other", adapters=[loaded(GIVEN, "v9")], created=9)
    hello = Switch.hello("b")._replace(card=other)
    assert switch.say("b", hello) == []
    switch.gone("a")
    switch.wait(GRACE_S)
    assert of(LoadAdapter, switch.mail("b")) == [LoadAdapter(loaded(GIVEN))]
