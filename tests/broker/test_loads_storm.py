"""Random search over models on demand: a front that wants, jobs, deaths, lost messages and a box that obeys late.

What is searched for: more posts than a device has slots, a pinned model that leaves, a model loaded twice, a want or a
job that never ends.
"""

import pytest
from box import Box
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from switch import Switch, submit

from tokenyard.broker.room import Policy
from tokenyard.broker.wire import Done, LoadFailed, Want, WorkerUp

MODELS = ("a", "b", "c", "pinned")
POLICY = Policy(residence_s=2, patience_s=4, idle_timeout_s=20)
ALIVE = ("front", "box")


class Storm(RuleBasedStateMachine):
    @initialize(slots=st.integers(1, 4))
    def begin(self, slots: int) -> None:
        self.switch = Switch(policy=POLICY)
        self.box = Box(self.switch, {"cpu": slots})
        self.num_jobs = 0
        self.switch.front()
        self.box.hello()
        if slots > 1:
            self.box.up(self.box.post("pinned", "cpu", pinned=True))
        for _ in range(2 if slots > 2 else 0):
            self.box.up(self.box.post("a", "cpu"))

    # what happens

    @rule(models=st.lists(st.sampled_from(MODELS[:3]), min_size=1, unique=True))
    def want(self, models: list[str]) -> None:
        for model in models:
            self.switch.tell("front", Want(model, model, 0))

    @rule(model=st.sampled_from(MODELS[:3]))
    def job(self, model: str) -> None:
        self.num_jobs += 1
        self.switch.tell("front", submit(self.num_jobs, model=model))

    @rule(seconds=st.floats(0.05, 3))
    def time(self, seconds: float) -> None:
        end = self.switch.now + seconds
        while self.switch.now < end:
            self.beat()
            self.switch.wait(min(0.5, end - self.switch.now), ALIVE)

    @rule()
    def obey(self) -> None:
        self.box.obey()

    @rule()
    def lose(self) -> None:
        """What was meant for the box does not arrive."""
        self.switch.mail("box")

    @precondition(lambda self: self.box.posts)
    @rule(data=st.data(), what=st.sampled_from(["up", "leave", "die", "fail", "finish"]))
    def worker(self, data: st.DataObject, what: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.box.posts)))
        worker = self.switch.core._state.workers[self.box.posts[number].inc]
        if what == "up" and worker.card is None:
            self.box.up(number)
        elif what == "leave" and self.box.posts[number].leaving and not worker.placements:
            self.box.drained(number)
        elif what == "die":
            self.box.die(number, "killed")
        elif what == "fail" and worker.card is None and not self.box.posts[number].pinned:
            self.box.die(number, "broken", final=True)
        elif what == "finish":
            self.finish(number)

    # what must hold

    @invariant()
    def devices_hold_what_they_can(self) -> None:
        if not hasattr(self, "box"):
            return
        assert len(self.box.posts) <= self.box.slots["cpu"]
        staying = [post.model for post in self.box.posts.values() if not post.leaving]
        most = {"a": 2 if self.box.slots["cpu"] > 2 else 1}
        assert all(staying.count(model) <= most.get(model, 1) for model in staying), "one model was loaded twice"
        assert ("pinned" in staying) == (self.box.slots["cpu"] > 1), "a pinned model made room"

    def teardown(self) -> None:
        """All goes well for a while: then all that waited has had its turn."""
        if not hasattr(self, "box"):
            return
        for job in range(self.num_jobs + 1, self.num_jobs + 4):
            self.switch.tell("front", submit(job, model=MODELS[job % 3]))
        self.switch.mail("front")
        answered = False
        for _ in range(200):
            self.beat()
            self.switch.wait(0.3, ALIVE)
            self.box.obey()
            for number, post in list(self.box.posts.items()):
                self.finish(number)
                if post.leaving:
                    self.box.drained(number)
                elif self.switch.core._state.workers[post.inc].card is None:
                    self.box.up(number)
            if not answered:
                mail = self.switch.say("front", Want("a", "a", 0))
                answered = any(isinstance(one, WorkerUp | LoadFailed) for one in mail)
        assert answered, "a want without an answer"
        assert not self.switch.core._state.num_queued, "a job that waits for ever"
        loads = self.switch.core._loads.describe()["loads"]
        assert loads == [], "a load that never ends"
        assert not self.switch.core._loads._replicas.is_waiting, "an agent that is asked for ever"

    def beat(self) -> None:
        for number, post in self.box.posts.items():
            self.box.beat(number, *self.switch.core._state.workers[post.inc].placements)

    def finish(self, number: int) -> None:
        for key in list(self.switch.core._state.workers[self.box.posts[number].inc].placements):
            self.switch.tell(self.box.worker(number), Done(*key, "stop"))


Storm.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
test_storm = pytest.mark.timeout(300)(Storm.TestCase)
