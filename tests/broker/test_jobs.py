"""The life of a job, rule by rule."""

from typing import Any

import pytest
from switch import MODEL, Switch, held, inc, submit

from tokenyard.broker import jobs
from tokenyard.broker.config import SILENCE_S
from tokenyard.broker.core import SWEEP_S
from tokenyard.broker.jobs import LINGER_S
from tokenyard.broker.wire import (
    FRONT_GONE,
    Abort,
    Accepted,
    Beat,
    Cancel,
    Done,
    Exited,
    Lost,
    Message,
    Placed,
    Reject,
    Start,
)


def make(num_workers: int = 1, capacity: int = 1, **options: Any) -> Switch:
    """A settled switch with one front and workers w1, w2, …"""
    switch = Switch(**options)
    switch.front()
    for index in range(num_workers):
        switch.worker(f"w{index + 1}", capacity=capacity)
    switch.mail("front")
    return switch


def done(switch: Switch, worker: str, job: int, attempt: int = 1) -> None:
    switch.tell(worker, Done(inc("front"), job, attempt, "stop"))


def starts(messages: list[Message]) -> list[tuple[int, int]]:
    return [(start.job, start.attempt) for start in messages if isinstance(start, Start)]


def started(switch: Switch, worker: str) -> list[tuple[int, int]]:
    """(job, attempt) of each Start that this worker got since it was last asked."""
    return starts(switch.mail(worker))


def code(messages: list[Message]) -> str:
    (reject,) = messages
    assert isinstance(reject, Reject)
    return reject.code


def crash(switch: Switch, worker: str) -> None:
    """The worker crashes by itself and its agent says so."""
    switch.agent(worker)
    switch.say("agent", Exited(inc(worker), "crash", "signal 11"))


# ---- submitting


def test_a_job_goes_to_the_worker_whole() -> None:
    switch = make()
    job = submit(7, attempt=2)._replace(emitted_ids=b"\2\0\0\0")
    assert switch.say("front", job) == [Placed(7, 2, inc("w1"))]
    assert switch.mail("w1") == [
        Start(inc("front"), 7, 2, "generate", job.prompt_ids, job.emitted_ids, job.params),
    ]


def test_a_repeat_is_answered_with_the_state_it_has() -> None:
    switch = make()
    for _ in range(2):
        assert switch.say("front", submit(1)) == [Placed(1, 1, inc("w1"))]
        assert switch.say("front", submit(2)) == [Accepted(2, 1)]
    assert started(switch, "w1") == [(1, 1)]
    done(switch, "w1", 1)
    assert switch.say("front", submit(1)) == [Placed(1, 1, inc("w1"))]
    assert started(switch, "w1") == [(2, 1)]


def test_an_unknown_model_is_refused_by_name() -> None:
    assert code(make().say("front", submit(1, model="nope"))) == "model_not_found"


def test_a_full_queue_refuses_fresh_jobs_but_never_resumed_ones() -> None:
    switch = make(queue_limit=1)
    switch.say("front", submit(1))
    assert switch.say("front", submit(2)) == [Accepted(2, 1)]
    refused = switch.say("front", submit(3))
    assert code(refused) == "queue_full"
    assert refused[0].retry_ms > 0  # type: ignore[union-attr]
    assert switch.say("front", submit(4, attempt=2)) == [Accepted(4, 2)]


def test_a_repeat_of_what_was_refused_is_refused_alike_whatever_has_changed() -> None:
    """Its front may have ended it by then, and would get a second end."""
    switch = make(queue_limit=0)
    switch.say("front", submit(1))
    refusals = [switch.say("front", job) for job in (submit(2), submit(3, model="later"))]
    assert [code(refusal) for refusal in refusals] == ["queue_full", "model_not_found"]
    done(switch, "w1", 1)
    switch.worker("w2", model="later")
    for _ in range(2):
        assert [switch.say("front", job) for job in (submit(2), submit(3, model="later"))] == refusals
        switch.wait(SILENCE_S / 2, alive=("front",))
    assert started(switch, "w2") == []
    switch.tell("front", submit(3, attempt=2, model="later"))
    assert started(switch, "w2") == [(3, 2)]


def test_refusals_in_a_flood_are_not_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_ENDED", 10)
    switch = make()
    for job in range(30):
        switch.say("front", submit(job, model="nope"))
    switch.wait(SWEEP_S)
    assert len(switch.core._state.ended) == len(switch.core._state.fronts[inc("front")].jobs) == 10


def test_a_limit_of_no_queue_still_lets_jobs_run() -> None:
    switch = make(queue_limit=0)
    assert switch.say("front", submit(1)) == [Placed(1, 1, inc("w1"))]
    assert code(switch.say("front", submit(2))) == "queue_full"


def test_resumed_first_then_priority_then_arrival() -> None:
    switch = make()
    switch.say("front", submit(1))
    switch.say("front", submit(2))
    switch.say("front", submit(3))
    switch.say("front", submit(4, priority=-1))
    switch.say("front", submit(5, attempt=2, priority=9))
    order = []
    for job in (1, 5, 4, 2, 3):
        order += started(switch, "w1")
        done(switch, "w1", job, attempt=2 if job == 5 else 1)
    assert order == [(1, 1), (5, 2), (4, 1), (2, 1), (3, 1)]


def test_a_deadline_in_the_queue_rejects_and_one_that_was_met_does_not() -> None:
    switch = make()
    switch.say("front", submit(1, deadline_ms=500))
    switch.say("front", submit(2, deadline_ms=500))
    switch.wait(0.6)
    assert code(switch.mail("front")) == "deadline_exceeded"
    assert code(switch.say("front", submit(2, deadline_ms=500))) == "deadline_exceeded"
    done(switch, "w1", 1)
    assert started(switch, "w1") == [(1, 1)]


# ---- attempts


def test_a_newer_attempt_fences_a_placed_one() -> None:
    switch = make(num_workers=2)
    switch.say("front", submit(1))
    assert switch.say("front", submit(1, attempt=2)) == [Placed(1, 2, inc("w2"))]
    assert switch.mail("w1")[-1] == Abort(inc("front"), 1, 1)
    done(switch, "w1", 1)  # the old one's end is not the job's
    assert switch.say("front", submit(1, attempt=2)) == [Placed(1, 2, inc("w2"))]


def test_a_newer_attempt_replaces_a_queued_one() -> None:
    switch = make()
    switch.say("front", submit(1))
    switch.say("front", submit(2))
    assert switch.say("front", submit(2, attempt=2)) == [Accepted(2, 2)]
    done(switch, "w1", 1)
    assert started(switch, "w1") == [(1, 1), (2, 2)]


def test_an_older_attempt_is_ignored() -> None:
    switch = make(num_workers=2)
    switch.say("front", submit(1, attempt=2))
    assert switch.say("front", submit(1, attempt=1)) == []
    assert started(switch, "w1") == [(1, 2)]


# ---- cancelling


def test_cancelling_a_queued_job_drops_it() -> None:
    switch = make()
    switch.say("front", submit(1))
    switch.say("front", submit(2))
    switch.say("front", Cancel(2))
    done(switch, "w1", 1)
    assert started(switch, "w1") == [(1, 1)]


def test_cancelling_a_placed_job_aborts_it_and_frees_the_credit_when_the_worker_says_so() -> None:
    switch = make()
    switch.say("front", submit(1))
    switch.say("front", submit(2))
    switch.mail("w1")
    switch.say("front", Cancel(1))
    assert switch.mail("w1") == [Abort(inc("front"), 1, 1)]
    done(switch, "w1", 1)
    assert started(switch, "w1") == [(2, 1)]


def test_a_cancelled_job_is_not_lost_with_its_worker() -> None:
    switch = make()
    switch.say("front", submit(1))
    switch.say("front", Cancel(1))
    switch.gone("w1")
    assert not [message for message in switch.mail("front") if isinstance(message, Lost)]


def test_a_job_whose_worker_cannot_reach_its_front_is_lost_not_done() -> None:
    switch = make(2)
    switch.say("front", submit(1))
    switch.tell("w1", Done(inc("front"), 1, 1, FRONT_GONE))
    assert switch.mail("front")[-1] == Lost(1, 1, 0)
    assert switch.say("front", submit(1)) == [Lost(1, 1, 0)], "a repeat hears the same"
    assert isinstance(switch.say("front", submit(1, attempt=2))[-1], Placed)


def test_cancelling_what_is_not_there_is_harmless() -> None:
    assert make().say("front", Cancel(99)) == []


# ---- what a beat heals


def test_a_lost_start_heals() -> None:
    switch = make()
    switch.say("front", submit(1))
    switch.beat("w1")
    switch.wait(0.9, alive=("front",))
    switch.beat("w1")
    assert switch.mail("front") == []
    switch.wait(0.3, alive=("front",))
    switch.beat("w1")
    assert switch.mail("front") == [Lost(1, 1, 0)]
    assert switch.say("front", submit(1, attempt=2)) == [Placed(1, 2, inc("w1"))]


def test_one_old_beat_that_crossed_the_start_loses_nothing() -> None:
    switch = make()
    switch.say("front", submit(1))
    switch.wait(1.5, alive=("front",))
    switch.beat("w1")
    switch.beat("w1", held("front", 1))
    switch.beat("w1")
    assert switch.mail("front") == []


def test_a_lost_abort_is_repeated_and_a_lost_done_is_noticed() -> None:
    switch = make()
    switch.say("front", submit(1))
    switch.say("front", Cancel(1))
    assert switch.beat("w1", held("front", 1)) == [Abort(inc("front"), 1, 1)]
    switch.wait(1.1, alive=("front",))
    switch.beat("w1")
    switch.beat("w1")
    assert switch.say("front", submit(2)) == [Placed(2, 1, inc("w1"))]


def test_a_beat_that_lists_what_nobody_knows_gets_aborts() -> None:
    assert make().beat("w1", held("front", 5), held("stranger", 5)) == [
        Abort(inc("front"), 5, 1),
        Abort(inc("stranger"), 5, 1),
    ]


def test_a_draining_worker_gets_no_new_jobs_and_keeps_its_own() -> None:
    switch = make(num_workers=2)
    switch.say("front", submit(1))
    switch.tell("w1", Beat(inc("w1"), "draining", 1, 0, [held("front", 1)]))
    switch.say("front", submit(2))
    assert switch.say("front", submit(3)) == [Accepted(3, 1)]
    done(switch, "w1", 1)
    assert (started(switch, "w1"), started(switch, "w2")) == ([(1, 1)], [(2, 1)])


# ---- crashes


def test_a_counted_job_waits_for_an_empty_worker_and_no_clean_job_joins_it() -> None:
    switch = make(num_workers=2, capacity=2)
    switch.say("front", submit(1))
    switch.say("front", submit(2))
    assert switch.say("front", submit(9, attempt=2, crashes=1)) == [Accepted(9, 2)]
    switch.mail("w1")
    done(switch, "w1", 1)
    assert started(switch, "w1") == [(9, 2)]
    switch.say("front", submit(3))
    assert switch.say("front", submit(4)) == [Accepted(4, 1)]
    assert started(switch, "w1") == []
    done(switch, "w1", 9, attempt=2)
    assert started(switch, "w1") == [(4, 1)]


def test_a_worker_runs_empty_for_a_counted_job_even_under_load() -> None:
    switch = make(capacity=2)
    for job in (1, 2, 3, 4):
        switch.say("front", submit(job))
    switch.say("front", submit(9, attempt=2, crashes=1))
    done(switch, "w1", 1)
    done(switch, "w1", 2)
    assert started(switch, "w1") == [(1, 1), (2, 1), (9, 2)]
    done(switch, "w1", 9, attempt=2)
    assert started(switch, "w1") == [(3, 1), (4, 1)]


def test_a_reserved_worker_is_let_go_when_no_counted_job_waits_any_more() -> None:
    switch = make(capacity=3)
    switch.say("front", submit(1))
    switch.say("front", submit(9, attempt=2, crashes=1))
    assert switch.say("front", submit(2)) == [Accepted(2, 1)]
    switch.say("front", Cancel(9))
    assert started(switch, "w1") == [(1, 1), (2, 1)]


def test_jobs_with_one_count_share_a_worker_and_those_with_two_run_alone() -> None:
    switch = make(capacity=4)
    for job in (1, 2):
        switch.say("front", submit(job, attempt=2, crashes=1))
    assert started(switch, "w1") == [(1, 2), (2, 2)]
    for job in (3, 4):
        switch.say("front", submit(job, attempt=3, crashes=2))
    done(switch, "w1", 1, attempt=2)
    done(switch, "w1", 2, attempt=2)
    assert started(switch, "w1") == [(3, 3)]
    done(switch, "w1", 3, attempt=3)
    assert started(switch, "w1") == [(4, 3)]


def test_three_counts_fail_a_job() -> None:
    switch = make()
    switch.say("front", submit(1))
    for attempt in (1, 2, 3):
        crash(switch, f"w{attempt}")
        assert switch.mail("front")[-1] == Lost(1, attempt, attempt)
        switch.worker(f"w{attempt + 1}", capacity=1)
        switch.mail("front")
        answer = switch.say("front", submit(1, attempt + 1, crashes=attempt))
    assert code(answer) == "job_crashes_workers"


def test_the_innocent_are_found_out() -> None:
    """One job of eight crashes every worker it runs on: it alone fails."""
    switch = make(capacity=8)
    for job in range(8):
        switch.say("front", submit(job))
    finished: set[int] = set()
    failed: set[int] = set()
    running = dict(started(switch, "w1"))
    for life in range(1, 40):
        while running and 5 not in running:
            for job, attempt in running.items():
                done(switch, f"w{life}", job, attempt)
            finished |= running.keys()
            running = dict(started(switch, f"w{life}"))
        if not running:
            break
        crash(switch, f"w{life}")
        for lost in [message for message in switch.mail("front") if isinstance(message, Lost)]:
            answer = switch.say("front", submit(lost.job, lost.attempt + 1, crashes=lost.crashes))
            failed |= {message.job for message in answer if isinstance(message, Reject)}
        running = dict(starts(switch.worker(f"w{life + 1}", capacity=8)))
    assert (failed, finished) == ({5}, set(range(8)) - {5})


# ---- a model without a worker


def test_a_model_whose_last_worker_died_stays_known() -> None:
    switch = make(load_timeout_s=30.0)
    switch.gone("w1")
    switch.mail("front")
    assert switch.say("front", submit(1)) == [Accepted(1, 1)]
    switch.wait(29.0, alive=("front",))
    switch.worker("w2")
    assert switch.mail("front")[-1] == Placed(1, 1, inc("w2"))


def test_its_jobs_fail_when_no_worker_comes_in_time() -> None:
    switch = make(load_timeout_s=30.0)
    switch.gone("w1")
    switch.mail("front")
    switch.say("front", submit(1))
    switch.wait(31.0, alive=("front",))
    assert code(switch.mail("front")) == "pool_unavailable"
    assert code(switch.say("front", submit(2))) == "model_not_found"


def test_a_resumed_job_waits_for_its_model_even_with_a_new_broker() -> None:
    switch = Switch()
    switch.front()
    assert switch.say("front", submit(1, attempt=2)) == [Accepted(1, 2)]
    switch.worker()
    assert switch.mail("front")[-1] == Placed(1, 2, inc("worker"))


# ---- memory


@pytest.mark.parametrize("end", ["done", "cancel", "deadline", "lost"])
def test_nothing_of_a_job_stays_after_its_end(end: str) -> None:
    switch = make()
    switch.say("front", submit(1, deadline_ms=100, prefix_keys=[b"k"]))
    switch.say("front", submit(2, deadline_ms=100))
    if end == "done":
        done(switch, "w1", 1)
        done(switch, "w1", 2)
    elif end == "cancel":
        switch.say("front", Cancel(1))
        switch.say("front", Cancel(2))
    elif end == "lost":
        switch.gone("w1")
        switch.say("front", Cancel(2))
    alive = ("front",)
    for _ in range(30):  # beats, so that aborted placements are let go and the worker lives
        switch.beat("w1") if end != "lost" else None
        switch.wait(0.5, alive)
    state = switch.core._state
    assert LINGER_S < 30 * 0.5
    assert not state.fronts[inc("front")].jobs
    assert not state.ended
    assert not state.deadlines
    assert not state.num_queued
    assert all(not worker.placements for worker in state.workers.values())


def test_stale_deadlines_do_not_pile_up() -> None:
    switch = make()
    for job in range(300):
        switch.say("front", submit(job, deadline_ms=10**9))
        switch.say("front", Cancel(job))
        done(switch, "w1", job)
    assert len(switch.core._state.deadlines) < 100


def test_models_are_separate() -> None:
    switch = make()
    switch.worker("other", model="other", capacity=1)
    switch.say("front", submit(1))
    switch.say("front", submit(2))
    switch.say("front", submit(3, model="other"))
    assert started(switch, "other") == [(3, 1)]
    assert MODEL in switch.core._state.models
