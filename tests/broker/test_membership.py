"""Who serves a model together: workers that give the same tokens, the elder ones first."""

from typing import Any

import pytest
from switch import MODEL, Switch, card, held, inc, submit

from tokenyard.broker.wire import (
    Abort,
    Accepted,
    Exited,
    FrontJob,
    Goodbye,
    Message,
    Placed,
    Reject,
    Start,
    Status,
    WorkerDown,
    WorkerInfo,
    WorkerUp,
)

CHANGED = {"commit": "changed", "created": 1}


def up(name: str, **fields: Any) -> WorkerUp:
    return WorkerUp(WorkerInfo(inc(name), f"ipc://{name}", card(**fields)))


def row(switch: Switch, name: str) -> dict[str, Any]:
    """What Status says of a worker."""
    (answer,) = switch.say("asker", Status(1))
    rows: dict[str, dict[str, Any]] = {one["inc"]: one for one in answer.body["workers"]}  # type: ignore[union-attr]
    return rows[inc(name).hex()]


def of(kind: type, messages: list[Message]) -> list[Message]:
    return [message for message in messages if isinstance(message, kind)]


@pytest.mark.parametrize("fields", [CHANGED, {"dtype": "float32+int8"}, {"dtype": "bfloat16"}])
def test_a_worker_with_another_model_of_the_same_name_is_kept_out(fields: dict[str, Any]) -> None:
    switch = Switch()
    switch.front()
    switch.worker("w1", capacity=1)
    switch.worker("w2", capacity=1, **fields)
    assert switch.mail("front") == [up("w1")]
    assert switch.say("front", submit(1)) == [Placed(1, 1, inc("w1"))]
    assert switch.say("front", submit(2)) == [Accepted(2, 1)]
    assert switch.mail("w2") == []
    assert row(switch, "w1")["state"] == "ready"
    assert row(switch, "w2")["state"] == "kept out"
    assert repr(MODEL) in row(switch, "w2")["words"]


def test_a_like_worker_joins() -> None:
    switch = Switch()
    switch.front()
    switch.worker("w1")
    switch.worker("w2", created=5, device="cuda", pool_tokens=7)
    assert switch.mail("front") == [up("w1"), up("w2", created=5, device="cuda", pool_tokens=7)]


def test_one_name_of_two_models_is_enough_to_be_kept_out() -> None:
    switch = Switch()
    switch.worker("w1", names=["a", "chat"])
    switch.worker("w2", names=["b", "chat"])
    switch.worker("w3", names=["b", "talk"])
    assert [row(switch, name)["state"] for name in ("w1", "w2", "w3")] == ["ready", "kept out", "ready"]


def test_it_joins_when_the_last_elder_has_left() -> None:
    switch = Switch()
    switch.front()
    for name in ("w1", "w2"):
        switch.worker(name)
    switch.worker("w3", **CHANGED)
    switch.mail("front")
    switch.gone("w1")
    assert of(WorkerUp, switch.mail("front")) == []
    switch.say("w2", Goodbye(inc("w2")))
    assert of(WorkerUp, switch.mail("front")) == [up("w3", **CHANGED)]
    assert row(switch, "w3")["words"] == ""
    assert of(Placed, switch.say("front", submit(1))) == [Placed(1, 1, inc("w3"))]


def test_what_waited_for_the_old_model_is_not_run_by_the_new_one() -> None:
    switch = Switch()
    switch.front()
    switch.worker("w1", capacity=1)
    switch.say("front", submit(1))
    switch.say("front", submit(2))
    switch.worker("w2", **CHANGED)
    switch.gone("w1")
    (reject,) = of(Reject, switch.mail("front"))
    assert isinstance(reject, Reject)
    assert (reject.job, reject.code) == (2, "pool_unavailable")
    assert "has changed" in reject.words
    assert switch.mail("w2") == []


def test_a_stream_that_one_model_began_is_not_gone_on_with_by_another() -> None:
    switch = Switch()
    switch.front()
    switch.worker("w1")
    switch.say("front", submit(1))
    switch.worker("w2", **CHANGED)
    switch.gone("w1")
    (reject,) = switch.say("front", submit(1, attempt=2))
    assert isinstance(reject, Reject)
    assert reject.code == "pool_unavailable"
    assert "has changed" in reject.words
    assert switch.say("front", submit(1, attempt=2)) == [reject], "said again"
    assert switch.say("front", submit(1, attempt=3)) == [reject._replace(attempt=3)]
    assert switch.mail("w2") == []
    assert switch.say("front", submit(2)) == [Placed(2, 1, inc("w2"))]


def test_what_waited_runs_on_a_like_worker() -> None:
    switch = Switch()
    switch.front()
    switch.worker("w1", capacity=1)
    switch.say("front", submit(1))
    switch.gone("w1")
    switch.say("front", submit(1, attempt=2))
    assert len(of(Start, switch.worker("w2", created=9))) == 1
    assert of(Reject, switch.mail("front")) == []


def test_after_a_restart_of_the_broker_the_elder_serves_whoever_speaks_first() -> None:
    switch = Switch(in_grace=True, awaited=[inc("old"), inc("new")])
    switch.front("front", FrontJob(7, 1))
    switch.worker("new", **CHANGED)
    switch.worker("old", held("front", 7))
    assert switch.mail("front") == [up("new", **CHANGED), WorkerDown(inc("new")), up("old"), Placed(7, 1, inc("old"))]
    assert row(switch, "new")["state"] == "kept out"


def test_an_elder_that_comes_back_too_late_is_kept_out_and_its_jobs_are_dropped() -> None:
    switch = Switch()
    switch.front()
    switch.worker("new", **CHANGED)
    switch.say("front", submit(1))
    assert switch.worker("old", held("front", 5)) == [Abort(inc("front"), 5, 1)]
    assert row(switch, "old")["state"] == "kept out"


def test_a_kept_out_worker_that_dies_is_forgotten() -> None:
    switch = Switch()
    switch.front()
    switch.agent("w1", "w2")
    switch.worker("w1")
    switch.worker("w2", **CHANGED)
    switch.mail("front")
    switch.say("agent", Exited(inc("w2"), "killed", ""))
    assert switch.mail("front") == []
    switch.gone("w1")
    assert of(WorkerUp, switch.mail("front")) == []
