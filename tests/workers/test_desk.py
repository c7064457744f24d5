"""The worker's desk: attempts, links and the truth about jobs, without a socket."""

from collections.abc import Sequence

import pytest

from tokenyard.broker.codec import decode
from tokenyard.broker.config import BEAT_S, MAX_FINISH_BYTES, PAUSE_S, UNSUBSCRIBED_S
from tokenyard.broker.errors import WireError
from tokenyard.broker.identity import Identity
from tokenyard.broker.params import Params
from tokenyard.broker.wire import (
    FRONT_GONE,
    Abort,
    Ack,
    Beat,
    Card,
    Delta,
    Done,
    Drain,
    Finish,
    Goodbye,
    LinkUp,
    Pause,
    Refused,
    Resume,
    Start,
    Stop,
    Tokens,
    Who,
    WorkerHello,
    WorkerJob,
)
from tokenyard.workers.desk import Action, Add, Desk, Drop, Exit, ToBroker, ToFront

ME, FRONT_1, FRONT_2 = (Identity.of(name) for name in (b"worker", b"front 1", b"front 2"))
INC, FRONT, OTHER = ME.inc, FRONT_1.inc, FRONT_2.inc
CARD = Card(["m"], "/m", "c0", 128, 1024, 16, "paged", "float32", "cpu", 100, [2])
PARAMS = Params(max_tokens=8)


def start(job: int = 1, attempt: int = 1, front: bytes = FRONT) -> Start:
    return Start(front, job, attempt, "generate", b"\1\0\0\0", b"", PARAMS)


def told(actions: Sequence[Action]) -> list[object]:
    return [action.message for action in actions if isinstance(action, ToBroker)]


def frames(actions: Sequence[Action]) -> list[object]:
    return [decode(frame) for action in actions if isinstance(action, ToFront) for frame in action.frames]


@pytest.fixture
def desk() -> Desk:
    desk = Desk(ME, 7, "ipc:///w", "m on cpu", 4, 0.0)
    desk.loaded(CARD)
    desk.subscribed(FRONT, 0.0)
    desk.from_front(Resume(FRONT, INC, 0, FRONT_1.secret), 0.0)
    return desk


def test_hello_says_what_the_worker_is_at_each_change() -> None:
    desk = Desk(ME, 7, "ipc:///w", "m on cpu", 4, 0.0)
    (loading,) = told(desk.connected())
    assert isinstance(loading, WorkerHello)
    assert (loading.state, loading.card) == ("loading", None)
    (ready,) = told(desk.loaded(CARD))
    assert isinstance(ready, WorkerHello)
    assert (ready.state, ready.card, ready.capacity) == ("ready", CARD, 4)
    desk.from_broker(start(), 0.0)
    (again,) = told(desk.from_broker(Who(b"epoch___"), 0.0))
    assert isinstance(again, WorkerHello)
    assert again.jobs == [WorkerJob(FRONT, 1, 1)]
    desk.check()


def test_a_repeated_start_begins_one_job_and_a_newer_one_fences(desk: Desk) -> None:
    assert desk.from_broker(start(), 0.0) == [Add(WorkerJob(FRONT, 1, 1), b"\1\0\0\0", b"", PARAMS)]
    assert desk.from_broker(start(), 0.0) == []
    drop, done, add = desk.from_broker(start(attempt=2), 0.0)
    assert drop == Drop(WorkerJob(FRONT, 1, 1))
    assert done == ToBroker(Done(FRONT, 1, 1, "fenced"))
    assert add == Add(WorkerJob(FRONT, 1, 2), b"\1\0\0\0", b"", PARAMS)
    assert desk.from_broker(start(attempt=1), 0.0) == []
    assert desk.stepped([(WorkerJob(FRONT, 1, 1), Delta(1, 1, 0, [5]))], 0.0) == [], "a fenced attempt is silent"


def test_one_batch_a_step_a_front(desk: Desk) -> None:
    desk.subscribed(OTHER, 0.0)
    desk.from_front(Resume(OTHER, INC, 0, FRONT_2.secret), 0.0)
    for job, front in ((1, FRONT), (2, FRONT), (1, OTHER)):
        desk.from_broker(start(job, 1, front), 0.0)
    outputs = [(WorkerJob(front, job, 1), Delta(job, 1, 0, [5])) for job, front in ((1, FRONT), (2, FRONT), (1, OTHER))]
    actions = desk.stepped(outputs, 0.0)
    assert [(action.front, len(action.frames)) for action in actions if isinstance(action, ToFront)] == [
        (FRONT, 1),
        (OTHER, 1),
    ]
    first, _ = frames(actions)
    assert isinstance(first, Tokens)
    assert [delta.job for delta in first.deltas] == [1, 2]


def test_a_finish_frees_the_job_and_tells_the_broker_once(desk: Desk) -> None:
    desk.from_broker(start(), 0.0)
    key = WorkerJob(FRONT, 1, 1)
    assert told(desk.stepped([(key, Delta(1, 1, 0, [5], {}, Finish("stop")))], 0.0)) == [Done(FRONT, 1, 1, "stop")]
    assert desk.stepped([(key, Delta(1, 1, 1, [6]))], 0.0) == []


@pytest.mark.parametrize("message", [Abort(FRONT, 1, 1), Abort(FRONT, 1, 2)])
def test_abort_ends_this_and_older_attempts(desk: Desk, message: Abort) -> None:
    desk.from_broker(start(), 0.0)
    drop, done = desk.from_broker(message, 0.0)
    assert drop == Drop(WorkerJob(FRONT, 1, 1))
    assert done == ToBroker(Done(FRONT, 1, 1, "aborted"))
    assert desk.from_broker(message, 0.0) == []


def test_abort_of_an_older_attempt_leaves_a_newer_one_alone(desk: Desk) -> None:
    desk.from_broker(start(attempt=2), 0.0)
    assert desk.from_broker(Abort(FRONT, 1, 1), 0.0) == []


def test_a_front_stops_its_own_streams_only(desk: Desk) -> None:
    desk.from_broker(start(), 0.0)
    assert desk.from_front(Stop(OTHER, INC, 1, FRONT_2.secret), 0.0) == []
    assert desk.from_front(Stop(FRONT, b"worker_2", 1, FRONT_1.secret), 0.0) == [], (
        "meant for another life of this worker"
    )
    assert Drop(WorkerJob(FRONT, 1, 1)) in desk.from_front(Stop(FRONT, INC, 1, FRONT_1.secret), 0.0)


@pytest.mark.parametrize("shown", [b"", FRONT_2.secret], ids=["no secret", "another's"])
def test_nobody_speaks_for_a_front(desk: Desk, shown: bytes) -> None:
    desk.from_broker(start(), 0.0)
    desk.stepped([(WorkerJob(FRONT, 1, 1), Delta(1, 1, 0, [5]))], 0.0)
    job = (FRONT, INC, 1)
    for lie in (Ack(*job, shown), Resume(*job, shown), Stop(*job, shown), Pause(*job, 9, shown)):
        with pytest.raises(WireError, match="without the secret") as caught:
            desk.from_front(lie, 0.0)
        assert caught.value.reason == "identity"
    (again,) = frames(desk.from_front(Resume(FRONT, INC, 0, FRONT_1.secret), 1.0))
    assert again == Tokens(0, [Delta(1, 1, 0, [5])]), "its token is still here"
    assert told(desk.stepped([(WorkerJob(FRONT, 1, 1), Delta(1, 1, 1, [6], {}, Finish("stop")))], 1.0))


def test_a_front_pauses_its_own_streams_for_a_time(desk: Desk) -> None:
    ms = round(1000 * PAUSE_S)
    mine, other = FRONT_1.secret, FRONT_2.secret
    for pause in (
        Pause(FRONT, INC, 1, ms, mine),
        Pause(OTHER, INC, 2, ms, other),
        Pause(FRONT, b"worker_2", 2, ms, mine),
    ):
        desk.from_front(pause, 1.0)
    desk.from_broker(start(1), 1.0)
    desk.from_broker(start(2), 1.0)
    assert desk.held(1.0) == set(), "of a job that was not there, in another's name, for another life of this worker"
    desk.from_front(Pause(FRONT, INC, 2, ms, mine), 1.0)
    assert desk.held(1.1) == {WorkerJob(FRONT, 2, 1)}
    desk.from_front(Pause(FRONT, INC, 2, ms, mine), 2.0)
    assert desk.held(2.0 + PAUSE_S - 0.1) == {WorkerJob(FRONT, 2, 1)}
    assert desk.held(2.0 + PAUSE_S) == set(), "its front has said nothing more"
    for job in (1, 2):
        desk.from_front(Pause(FRONT, INC, job, ms, mine), 5.0)
    desk.from_front(Pause(FRONT, INC, 2, 0, mine), 5.1)
    assert desk.held(5.1) == {WorkerJob(FRONT, 1, 1)}
    desk.from_front(Stop(FRONT, INC, 1, mine), 5.2)
    assert desk.held(5.2) == set()


def test_a_front_that_stays_away_has_its_jobs_freed(desk: Desk) -> None:
    desk.from_broker(start(), 0.0)
    desk.unsubscribed(FRONT, 1.0)
    assert Drop(WorkerJob(FRONT, 1, 1)) not in desk.tick(1, {}, 1.0 + UNSUBSCRIBED_S)
    assert Drop(WorkerJob(FRONT, 1, 1)) in desk.tick(1, {}, 1.1 + UNSUBSCRIBED_S)
    desk.check()


def test_a_freed_front_that_comes_back_is_told_of_a_new_link(desk: Desk) -> None:
    desk.from_broker(start(), 0.0)
    desk.unsubscribed(FRONT, 0.5)
    (first,) = frames(desk.subscribed(FRONT, 0.6))
    desk.unsubscribed(FRONT, 1.0)
    assert Done(FRONT, 1, 1, FRONT_GONE) in told(desk.tick(1, {}, 1.1 + UNSUBSCRIBED_S))
    (second,) = frames(desk.subscribed(FRONT, 9.0))
    assert isinstance(first, LinkUp)
    assert isinstance(second, LinkUp)
    assert second.link > first.link


def test_a_front_that_reconnects_before_its_old_connection_ends_is_not_away(desk: Desk) -> None:
    desk.from_broker(start(), 0.0)
    (link_up,) = frames(desk.subscribed(FRONT, 1.0))
    assert isinstance(link_up, LinkUp)
    desk.unsubscribed(FRONT, 1.0)
    assert Drop(WorkerJob(FRONT, 1, 1)) not in desk.tick(1, {}, 2.0 + UNSUBSCRIBED_S)


def test_the_beat_tells_the_truth_about_jobs(desk: Desk) -> None:
    desk.tick(0, {}, 0.0)
    desk.from_broker(start(), 0.0)
    assert told(desk.tick(3, {"running": 1}, BEAT_S / 2)) == []
    assert told(desk.tick(3, {"running": 1}, BEAT_S)) == [
        Beat(INC, "ready", 3, 0, [WorkerJob(FRONT, 1, 1)], {"running": 1, "resent_batches": 0})
    ]
    (beat,) = told(desk.tick(3, {}, 2 * BEAT_S, 60_000))
    assert isinstance(beat, Beat)
    assert beat.step_ms == 60_000


def test_draining_waits_for_jobs_and_for_the_last_ack(desk: Desk) -> None:
    desk.from_broker(start(), 0.0)
    (hello,) = told(desk.from_broker(Drain(), 0.0))
    assert isinstance(hello, WorkerHello)
    assert hello.state == "draining"
    desk.stepped([(WorkerJob(FRONT, 1, 1), Delta(1, 1, 0, [5], {}, Finish("stop")))], 0.1)
    assert not any(isinstance(action, Exit) for action in desk.tick(1, {}, 0.1))
    desk.from_front(Ack(FRONT, INC, 1, FRONT_1.secret), 0.2)
    actions = desk.tick(1, {}, 0.2)
    assert Goodbye(INC) in told(actions)
    assert Exit(0, "drained") in actions


def test_a_refused_worker_ends_with_the_brokers_words(desk: Desk) -> None:
    (action,) = desk.from_broker(Refused("protocol 9"), 0.0)
    assert isinstance(action, Exit)
    assert action.code == 2
    assert "protocol 9" in action.words


def test_what_is_too_large_for_one_message_goes_in_several(desk: Desk) -> None:
    desk.from_broker(start(), 0.0)
    part = {"prompt_logprobs": [1, bytes(MAX_FINISH_BYTES // 2), bytes(MAX_FINISH_BYTES // 2), b"", b""]}
    deltas = [Delta(1, 1, 0, [], part) for _ in range(9)] + [Delta(1, 1, 0, [5], {}), Delta(1, 1, 1, [6], {})]
    batches = frames(desk.stepped([(WorkerJob(FRONT, 1, 1), delta) for delta in deltas], 0.0))
    assert [batch.seq for batch in batches if isinstance(batch, Tokens)] == list(range(9))
    assert [delta for batch in batches if isinstance(batch, Tokens) for delta in batch.deltas] == deltas
