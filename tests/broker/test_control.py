"""What an operator can ask, and that asking twice is harmless."""

import msgpack
import pytest
from switch import EPOCH, MODEL, Switch, inc, secret, submit

from tokenyard.broker.codec import decode, encode
from tokenyard.broker.config import BEAT_S
from tokenyard.broker.wire import (
    PROTOCOL,
    AgentHello,
    Answer,
    Beat,
    Goodbye,
    Kill,
    KillWorker,
    Message,
    Status,
)


def ask(switch: Switch, question: Message) -> Answer:
    (answer,) = switch.say("operator", question)
    assert isinstance(answer, Answer)
    assert answer.req == question.req  # type: ignore[union-attr]
    return answer


def test_status_shows_everything_and_fits_a_frame() -> None:
    switch = Switch(pid=77)
    switch.front()
    switch.worker(capacity=2)
    switch.worker("loading", state="loading")
    switch.agent("worker")
    for job in range(3):
        switch.say("front", submit(job))
    body = ask(switch, Status(5)).body
    assert body["broker"]["pid"] == 77
    assert body["broker"]["epoch"] == EPOCH.hex()
    assert body["broker"]["uptime_s"] == switch.now
    ready, loading = body["workers"]
    assert ready["inc"] == inc("worker").hex()
    assert (ready["state"], ready["models"], ready["running"], ready["capacity"]) == ("ready", [MODEL], 2, 2)
    assert (loading["state"], loading["models"]) == ("loading", [])
    assert body["fronts"] == [{"inc": inc("front").hex(), "pid": 1, "jobs": 3}]
    agent = {"inc": inc("agent").hex(), "pid": 3, "devices": ["cpu"], "workers": 1, "troubles": []}
    assert body["agents"] == [agent]
    assert body["models"] == {MODEL: {"queued": 1, "placed": 2, "workers": 1}}
    assert decode(encode(Answer(5, "", body))) == Answer(5, "", body)
    assert msgpack.unpackb(msgpack.packb(body)) == body


def test_kill_goes_to_the_agent_that_owns_the_worker() -> None:
    switch = Switch()
    switch.agent("w1", name="a1")
    switch.agent("w2", name="a2")
    assert ask(switch, KillWorker(1, inc("w2"))).error == ""
    assert (switch.mail("a1"), switch.mail("a2")) == ([], [Kill(inc("w2"))])
    assert "no agent" in ask(switch, KillWorker(2, inc("w3"))).error


def test_status_tells_speed_restarts_and_losses() -> None:
    switch = Switch()
    shown = {"secret": secret("agent"), "proofs": [secret("worker")]}
    hello = AgentHello(PROTOCOL, inc("agent"), 3, ["cpu"], [inc("worker")], [2], troubles=["w died"])
    switch.say("agent", hello._replace(**shown))
    switch.worker()
    switch.worker("alone")
    for emitted in range(0, 1000, 100):
        switch.wait(BEAT_S, alive=("agent",))
        for name in ("worker", "alone"):
            switch.say(name, Beat(inc(name), "ready", 1, 0, [], {"emitted_tokens": emitted}))
    body = ask(switch, Status(1)).body
    assert body["agents"][0]["troubles"] == ["w died"]
    owned, alone = body["workers"]
    assert owned["tokens_per_s"] == pytest.approx(100 / BEAT_S)
    assert (owned["restarts"], alone["restarts"]) == (2, None)
    switch.gone("worker")
    switch.say("alone", Goodbye(inc("alone")))
    assert ask(switch, Status(2)).body["broker"]["lost_workers"] == {MODEL: 1}
