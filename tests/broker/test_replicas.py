"""A model that had several workers when it made room gets them back, where nobody else needs the place."""

from box import Box
from loading import POLICY, load, only, pass_time, want
from switch import Switch, inc, submit

from tokenyard.broker.config import BEAT_S
from tokenyard.broker.room import Policy
from tokenyard.broker.wire import Dismiss, Done, Exited, Spawn, Spawned, UnloadModel


def evicted(others: str = "bc") -> tuple[Switch, Box]:
    """`a` had a worker on each device, which have made room for others."""
    switch = Switch(policy=POLICY)
    switch.front()
    box = Box(switch, {"cpu": len(others)})
    for _ in others:
        box.up(box.post("a", "cpu"))
    for model in others:
        pass_time(switch, box, POLICY.residence_s + 1, model)
        swap(box)
    return switch, box


def swap(box: Box) -> None:
    """What is leaving leaves, what is spawned comes up."""
    for _ in range(3):
        box.obey()
        for number, post in list(box.posts.items()):
            if post.leaving:
                box.drained(number)
    box.obey()
    for number in box.posts:
        box.up(number)


def unload(switch: Switch, box: Box, model: str) -> None:
    """By hand."""
    switch.say("operator", UnloadModel(1, model))
    box.obey()
    for number, post in list(box.posts.items()):
        if post.leaving:
            box.drained(number)


def models(box: Box) -> list[str]:
    return sorted(post.model for post in box.posts.values())


def back(switch: Switch, box: Box) -> None:
    """It is wanted and comes; b, which was used before c, makes room."""
    others = models(box)[1:]
    assert models(box) == ["b", *others]
    pass_time(switch, box, POLICY.residence_s + 1, "a")
    swap(box)
    assert models(box) == ["a", *others]


def test_others_follow_the_first_where_there_is_room() -> None:
    switch, box = evicted()
    back(switch, box)
    pass_time(switch, box, POLICY.residence_s + POLICY.patience_s)
    assert only(box.obey(), Dismiss | Spawn) == [], "only what is free is for them"  # type: ignore[arg-type]
    unload(switch, box, "c")
    pass_time(switch, box, 2)
    (spawn,) = set(only(box.obey(), Spawn))
    assert isinstance(spawn, Spawn)
    assert spawn[1:] == ("a", "cpu", True)
    assert models(box) == ["a", "a"]
    box.up(max(box.posts))
    pass_time(switch, box, 5)
    assert only(box.obey(), Spawn) == []


def test_both_come_at_once_where_both_have_room() -> None:
    switch, box = evicted()
    for model in ("b", "c"):
        unload(switch, box, model)
    load(switch, box, "a")
    pass_time(switch, box, 2)
    box.obey()
    assert models(box) == ["a", "a"]


def test_one_of_two_that_made_room_comes_back() -> None:
    switch = Switch(policy=Policy(residence_s=5, patience_s=10, idle_timeout_s=10))
    switch.front()
    box = Box(switch, {"cpu": 2})
    for _ in range(2):
        box.up(box.post("a", "cpu"))
    pass_time(switch, box, POLICY.residence_s + 1, "b")
    swap(box)
    assert models(box) == ["a", "b"]
    pass_time(switch, box, 12)
    swap(box)
    assert models(box) == ["a"], "b had no work for long, and a had none meanwhile"
    switch.say("front", submit(1, model="a"))
    pass_time(switch, box, 2)
    box.obey()
    assert models(box) == ["a", "a"]
    box.up(max(box.posts))
    for worker in [box.worker(number) for number in box.posts]:
        switch.tell(worker, Done(inc("front"), 1, 1, "stop"))
    pass_time(switch, box, 12)
    swap(box)
    pass_time(switch, box, 3)
    swap(box)
    assert models(box) == ["a"], "what came on demand leaves when idle, and is not brought up again"


def test_who_waits_for_a_device_goes_first() -> None:
    switch, box = evicted()
    back(switch, box)
    want(switch, "d")  # waits, as all have just come
    unload(switch, box, "c")
    pass_time(switch, box, 2, "d")
    box.obey()
    assert models(box) == ["a", "d"]


def test_a_spawn_is_said_again_until_it_is_answered() -> None:
    switch, box = evicted()
    back(switch, box)
    unload(switch, box, "c")
    pass_time(switch, box, 2)
    lost = only(switch.mail("box"), Spawn)
    pass_time(switch, box, 2 * BEAT_S)
    assert set(only(box.obey(), Spawn)) == set(lost)
    assert models(box) == ["a", "a"]


def test_an_agent_that_goes_is_asked_no_more() -> None:
    switch, box = evicted()
    back(switch, box)
    unload(switch, box, "c")
    pass_time(switch, box, 2)
    assert only(switch.mail("box"), Spawn)
    switch.gone("box")
    switch.core.check()
    box.hello()
    pass_time(switch, box, 2)
    box.obey()
    assert models(box) == ["a", "a"]


def test_a_place_is_asked_for_once() -> None:
    switch, box = evicted()
    back(switch, box)
    unload(switch, box, "c")
    pass_time(switch, box, 2)
    want(switch, "d")
    assert len(set(only(switch.mail("box"), Spawn))) == 1


def test_one_that_is_given_up_is_not_tried_again() -> None:
    switch, box = evicted("bcd")
    back(switch, box)
    for model in "cd":
        unload(switch, box, model)
    pass_time(switch, box, 2)
    box.obey()
    pass_time(switch, box, 2)
    box.obey()
    assert models(box) == ["a", "a", "a"]
    box.die(max(box.posts) - 1, "out of memory", final=True)
    pass_time(switch, box, 5)
    assert only(box.obey(), Spawn) == []
    assert models(box) == ["a", "a"]


def test_one_that_is_given_up_before_the_others_come() -> None:
    switch, box = evicted("bcd")
    back(switch, box)
    unload(switch, box, "c")
    pass_time(switch, box, 2)
    box.obey()
    box.die(max(box.posts), "out of memory", final=True)
    unload(switch, box, "d")
    pass_time(switch, box, 5)
    assert only(box.obey(), Spawn) == []
    assert models(box) == ["a"]


def test_one_that_cannot_even_be_started() -> None:
    switch, box = evicted()
    back(switch, box)
    unload(switch, box, "c")
    pass_time(switch, box, 2)
    spawn = only(switch.mail("box"), Spawn)[0]
    assert isinstance(spawn, Spawn)
    switch.tell("box", Spawned(spawn.req, inc("never")))
    switch.tell("box", Exited(inc("never"), "crash", "there is no such device", True))
    box.hello()
    pass_time(switch, box, 5)
    assert only(box.obey(), Spawn) == []


def test_unloaded_by_hand_it_comes_back_alone() -> None:
    switch, box = evicted()
    back(switch, box)
    for model in ("a", "c"):
        unload(switch, box, model)
    load(switch, box, "a")
    pass_time(switch, box, 5)
    box.obey()
    assert models(box) == ["a"]
