"""Models on demand: one load for all who want it, room made by the right one, words where it fails."""

from box import Box
from loading import POLICY, load, only, pass_time, want
from switch import MODEL, Switch, inc, submit

from tokenyard.broker.config import BEAT_S
from tokenyard.broker.loads import FAILURE_S, STRANGER_S, WANT_S
from tokenyard.broker.room import Policy
from tokenyard.broker.wire import (
    Accepted,
    Answer,
    Dismiss,
    Done,
    LoadFailed,
    Loading,
    Placed,
    Reject,
    Spawn,
    Status,
    UnloadModel,
    Want,
    WorkerUp,
)


def yard(slots: int = 1, policy: Policy = POLICY, memory_bytes: int = 0, named: str = "") -> tuple[Switch, Box]:
    switch = Switch(policy=policy)
    switch.front()
    box = Box(switch, {"cpu": slots}, {"cpu": memory_bytes})
    box.hello()
    if named:
        box.up(box.post(named, "cpu"))
    switch.mail("front")
    return switch, box


# ---- loading


def test_all_who_want_a_model_share_one_load() -> None:
    switch, box = yard()
    switch.front("other")
    assert want(switch, "b") == [Loading("b", "starting", 0.0, "its process starts")]
    want(switch, "b", front="other")
    (spawn,) = only(box.obey(), Spawn)
    assert isinstance(spawn, Spawn)
    assert spawn[1:] == ("b", "cpu", True)
    (loading,) = want(switch, "b")
    assert loading == Loading("b", "loading", 0.0, "0 % loaded")
    box.up(0)
    for front in ("front", "other"):
        (up,) = only(switch.mail(front), WorkerUp)
        assert isinstance(up, WorkerUp)
        assert up.worker.card.names == ["b"]
    assert only(want(switch, "b"), WorkerUp)
    assert box.num_spawns == 1


def test_a_spawn_is_said_again_until_the_post_shows() -> None:
    switch, box = yard()
    want(switch, "b")
    switch.mail("box")  # lost
    pass_time(switch, box, 2 * BEAT_S, "b")
    spawns = only(switch.mail("box"), Spawn)
    assert spawns
    assert len(set(spawns)) == 1


def test_nobody_wants_it_any_more() -> None:
    switch, box = yard(named=MODEL)
    want(switch, "b")
    pass_time(switch, box, WANT_S + 1)
    pass_time(switch, box, POLICY.patience_s)
    assert only(switch.mail("box"), Dismiss) == []
    assert only(switch.mail("box"), Spawn) == []


def test_a_life_that_ends_while_it_loads_is_followed_by_the_next() -> None:
    switch, box = yard()
    want(switch, "b")
    box.obey()
    box.die(0, "killed")
    assert only(want(switch, "b"), Loading)
    box.up(0)
    assert only(switch.mail("front"), WorkerUp)
    assert box.num_spawns == 1


def test_a_worker_with_another_name_fails_its_load() -> None:
    switch, box = yard(slots=2, named=MODEL)
    want(switch, "b")
    box.obey()
    box.posts[1] = box.posts[1]._replace(model=MODEL)
    box.hello()
    box.up(1)
    pass_time(switch, box, 1, "b")
    assert box.num_spawns == 1


# ---- failing


def test_a_load_that_fails_tells_all_and_the_evicted_model_comes_back() -> None:
    switch, box = yard(named=MODEL)
    pass_time(switch, box, POLICY.residence_s)
    want(switch, "b")
    box.obey()
    box.drained(0)
    box.obey()
    box.die(1, "shard 2 is truncated", final=True)
    (failure,) = switch.mail("front")[-1:]
    assert failure == LoadFailed("b", "model_load_failed", "b cannot be loaded: shard 2 is truncated")
    assert want(switch, "b") == [failure]  # a repeat that crossed it
    box.obey()
    assert [post.model for post in box.posts.values()] == [MODEL]
    pass_time(switch, box, FAILURE_S + 1)
    assert only(want(switch, "b"), Loading)


def test_what_cannot_fit_is_refused_before_anything_is_evicted() -> None:
    switch, box = yard(memory_bytes=1000, named=MODEL)
    pass_time(switch, box, POLICY.residence_s)
    (refusal,) = want(switch, "b", 1001)
    assert isinstance(refusal, LoadFailed)
    assert refusal.code == "model_too_large"
    assert "1,001" in refusal.words
    assert "1,000" in refusal.words
    assert only(box.obey(), Dismiss) == []
    assert only(want(switch, "c", 1000), Loading)


def test_models_that_share_a_device_share_its_memory() -> None:
    switch, _ = yard(slots=2, memory_bytes=1000)
    assert only(want(switch, "b", 501), LoadFailed)
    assert only(want(switch, "c", 500), Loading)


def test_what_a_cpu_widens_counts_as_wide_there_alone() -> None:
    switch = Switch(policy=POLICY)
    switch.front()
    box = Box(switch, {"cpu": 1, "cuda:0": 1}, {"cpu": 1500, "cuda:0": 1000})
    box.hello()
    switch.say("front", Want("b", "b", 900, 1800))
    box.obey()
    assert [post.device for post in box.posts.values()] == ["cuda:0"]
    (refusal,) = switch.say("front", Want("c", "c", 1100, 2200))
    assert isinstance(refusal, LoadFailed)
    assert refusal.words == "c takes 2,200 bytes of memory; a model may take 1,500 here"


def test_without_an_agent_nothing_can_be_loaded() -> None:
    switch = Switch()
    switch.front()
    (refusal,) = want(switch, "b")
    assert isinstance(refusal, LoadFailed)
    assert refusal.code == "pool_unavailable"


def test_a_load_has_a_limit() -> None:
    switch = Switch(load_timeout_s=20)
    switch.front()
    box = Box(switch, {"cpu": 1})
    box.hello()
    want(switch, "b")
    box.obey()
    pass_time(switch, box, 21, "b")
    box.obey()
    assert only(switch.mail("front"), LoadFailed) or only(want(switch, "b"), LoadFailed)
    assert box.posts == {}


def test_a_load_that_goes_on_may_take_longer() -> None:
    switch = Switch(load_timeout_s=20)
    switch.front()
    box = Box(switch, {"cpu": 1})
    box.hello()
    want(switch, "b")
    box.obey()
    for percent in (10, 20, 30):
        box.percent = percent
        pass_time(switch, box, 15, "b")
    assert only(want(switch, "b"), Loading)
    pass_time(switch, box, 21, "b")
    box.obey()
    assert box.posts == {}


# ---- making room


def test_the_least_recently_used_idle_model_makes_room() -> None:
    switch, box = yard(slots=2)
    load(switch, box, "a")
    pass_time(switch, box, 1)
    load(switch, box, "b")
    pass_time(switch, box, POLICY.residence_s)
    switch.say("front", submit(1, model="a"))
    switch.say(box.worker(0), Done(inc("front"), 1, 1, "stop"))  # a was used last
    pass_time(switch, box, 1, "c")
    assert set(only(box.obey(), Dismiss)) == {Dismiss(1)}
    box.drained(1)
    assert only(box.obey(), Spawn)
    assert sorted(post.model for post in box.posts.values()) == ["a", "c"]


def test_a_pinned_model_never_makes_room() -> None:
    switch, box = yard()
    box.up(box.post("a", "cpu", pinned=True))
    pass_time(switch, box, POLICY.residence_s + POLICY.patience_s + 5, "b")
    assert only(box.obey(), Dismiss) == []
    (waiting,) = want(switch, "b")
    assert waiting == Loading("b", "waiting", 0.0, "it waits for a device")


def test_a_busy_model_makes_room_only_after_a_while() -> None:
    switch, box = yard(named=MODEL)
    pass_time(switch, box, POLICY.residence_s)
    switch.say("front", submit(1))
    pass_time(switch, box, POLICY.patience_s - 1, "b")
    assert only(box.obey(), Dismiss) == []
    pass_time(switch, box, 2, "b")
    assert set(only(box.obey(), Dismiss)) == {Dismiss(0)}


def test_told_so_a_busy_model_makes_room_at_once() -> None:
    switch, box = yard(policy=Policy(residence_s=0, patience_s=0), named=MODEL)
    switch.say("front", submit(1))
    want(switch, "b")
    assert only(box.obey(), Dismiss) == [Dismiss(0)]


def test_queued_jobs_bring_an_evicted_model_back() -> None:
    switch, box = yard(named=MODEL, policy=Policy(residence_s=0, patience_s=10))
    want(switch, "b")
    box.obey()
    box.drained(0)
    box.obey()
    box.up(1)
    assert only(switch.say("front", submit(1)), Accepted)
    box.obey()
    assert box.posts[1].leaving  # b is idle
    box.drained(1)
    box.obey()
    (number,) = box.posts
    box.up(number)
    assert only(switch.mail("front"), Placed)


def test_two_busy_models_take_turns_and_each_stays_for_a_while() -> None:
    """Both have more work than time: a swap each 10 s at most, and none waits longer than two turns."""
    switch, box = yard(named=MODEL)
    last = {MODEL: switch.now, "b": switch.now}
    num_swaps, worst = 0, 0.0
    job = 0
    want(switch, "b")
    for _ in range(600):
        switch.wait(0.2, ("front", "box"))
        box.obey()
        for number, post in list(box.posts.items()):
            last[post.model], worst = switch.now, max(worst, switch.now - last[post.model])
            if post.leaving:
                box.drained(number)
                num_swaps += 1
                continue
            box.up(number)
        for model in last:
            job += 1
            switch.say("front", submit(job, model=model))
        want(switch, "b")
        for number in box.posts:
            worker = switch.core._state.workers[box.posts[number].inc]
            for key in list(worker.placements)[: len(worker.placements) - 1]:
                switch.tell(box.worker(number), Done(*key, "stop"))
            box.beat(number, *worker.placements)
    assert 120 / POLICY.patience_s / 2 <= num_swaps <= 120 / POLICY.patience_s
    assert worst < 2 * (POLICY.patience_s + 2)


def test_a_model_loaded_on_demand_is_unloaded_when_idle_and_a_named_one_is_not() -> None:
    switch, box = yard(slots=3, policy=Policy(idle_timeout_s=30), named=MODEL)
    number = load(switch, box, "b")
    pass_time(switch, box, 32)
    assert set(only(box.obey(), Dismiss)) == {Dismiss(number)}


# ---- by hand


def test_unload_is_answered_once_all_posts_are_gone() -> None:
    switch, box = yard(slots=2, named=MODEL)
    assert switch.say("operator", UnloadModel(1, MODEL)) == []
    box.obey()
    assert switch.say("operator", UnloadModel(1, MODEL)) == []
    box.drained(0)
    assert switch.say("operator", UnloadModel(1, MODEL)) == [Answer(1, "")]
    (answer,) = switch.say("operator", UnloadModel(2, MODEL))
    assert isinstance(answer, Answer)
    assert MODEL in answer.error


def test_status_shows_loads_and_posts() -> None:
    switch, _ = yard(named=MODEL)
    want(switch, "b")
    (answer,) = switch.say("operator", Status(1))
    assert isinstance(answer, Answer)
    (loading,) = answer.body["loads"]
    assert (loading["model"], loading["phase"]) == ("b", "waiting")
    (post,) = answer.body["posts"]
    assert (post["model"], post["device"], post["leaving"]) == (MODEL, "cpu", False)


# ---- a broker that starts in the middle


def test_a_new_broker_finds_the_load_that_is_under_way() -> None:
    switch, box = yard()
    want(switch, "b")
    box.obey()
    again = Switch(policy=POLICY)
    box.switch = again
    again.front()
    box.hello()
    assert only(want(again, "b"), Loading)
    assert only(again.mail("box"), Spawn) == []
    box.up(0)
    assert only(again.mail("front"), WorkerUp)


def test_a_new_broker_hands_jobs_back_whose_model_it_cannot_load() -> None:
    """The front says Want then: it knows how."""
    switch, box = yard()
    assert only(switch.say("front", submit(1, attempt=2, model="evicted")), Accepted)
    pass_time(switch, box, STRANGER_S + 0.5)
    (reject,) = only(switch.mail("front"), Reject)
    assert isinstance(reject, Reject)
    assert reject.code == "model_not_found"


def test_a_lost_agent_leaves_the_load_waiting_for_another() -> None:
    switch, box = yard()
    want(switch, "b")
    box.obey()
    switch.gone("box")
    switch.gone(box.worker(0))
    other = Box(switch, {"cpu": 1}, name="two")
    other.hello()
    want(switch, "b")
    assert only(other.obey(), Spawn)


def test_jobs_queued_for_a_load_that_fails_are_rejected_with_its_words() -> None:
    switch, box = yard(named=MODEL, policy=Policy(residence_s=0))
    want(switch, "b")
    box.obey()
    box.drained(0)
    box.obey()
    box.up(1)
    switch.say("front", submit(1))
    box.obey()
    box.drained(1)
    box.obey()
    (number,) = box.posts
    switch.mail("front")
    box.die(number, "its files are gone", final=True)
    (reject,) = only(switch.mail("front"), Reject)
    assert isinstance(reject, Reject)
    assert reject.code == "model_load_failed"
    assert "its files are gone" in reject.words
