"""The supervisor's decisions, driven with a clock of our own."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tokenyard.scripts.watch import (
    FIRST_DELAY_S,
    HEALTHY_S,
    LAST_DELAY_S,
    LOOP_DEATHS,
    MAX_GIVEN_UP,
    OBEY_S,
    SETUP_STATUS,
    SILENT_LOOKS,
    Action,
    GaveUp,
    HandOver,
    Kill,
    Over,
    Retired,
    Role,
    Start,
    Terminate,
    Watch,
)

DRAIN_S = 30.0


def make_watch(*workers: str) -> Watch:
    watch = Watch(DRAIN_S)
    for name in workers or ("w0", "w1"):
        watch.add(name, Role.WORKER, 0)
    watch.add("broker", Role.BROKER, 0)
    watch.add("front", Role.FRONT, 0)
    return watch


def started(*workers: str) -> Watch:
    watch = make_watch(*workers)
    for action in watch.tick(0):
        assert isinstance(action, Start)
        watch.ready(action.name, 0)
    return watch


def test_all_start_at_once() -> None:
    watch = make_watch()
    assert watch.tick(0) == [Start("w0"), Start("w1"), Start("broker"), Start("front")]
    assert watch.tick(1) == []
    assert watch.next_due() is None


def test_delays_double_up_to_the_last() -> None:
    watch = started()
    now, delays = 0.0, []
    for _ in range(10):
        assert watch.died("w0", -9, now) == []
        due = watch.next_due()
        assert due is not None
        assert watch.tick(due - 0.01) == []
        assert watch.tick(due) == [Start("w0")]
        watch.ready("w0", due)
        delays.append(due - now)
        now = due
    expected = [min(FIRST_DELAY_S * 2**n, LAST_DELAY_S) for n in range(10)]
    assert all(abs(delay - right) < 1e-9 for delay, right in zip(delays, expected, strict=True))


def test_a_healthy_life_starts_the_delays_anew() -> None:
    watch = started()
    watch.died("w0", 1, 1.0)
    watch.tick(5.0)
    watch.ready("w0", 5.0)
    watch.died("w0", 1, 5.0 + HEALTHY_S)
    assert watch.next_due() == 5.0 + HEALTHY_S + FIRST_DELAY_S


def test_who_is_silent_for_long_is_killed_if_it_was_ever_ready() -> None:
    watch = started()
    for name in ("front", "broker"):
        assert [watch.missed(name) for _ in range(SILENT_LOOKS - 1)] == [[]] * (SILENT_LOOKS - 1)
    watch.ready("front", 60)
    assert watch.missed("front") == []
    (kill,) = watch.missed("broker")
    assert kill == Kill("broker", "hung: it is silent")
    watch.died("broker", -9, 61)
    assert watch.tick(62) == [Start("broker")]
    assert not any(watch.missed("broker") for _ in range(2 * SILENT_LOOKS)), "it is still starting"
    watch.ready("broker", 70)
    watch.drain(71)
    assert not any(watch.missed("front") for _ in range(2 * SILENT_LOOKS)), "it says goodbye"
    assert watch.missed("agent") == [], "its broker is another's"


def test_a_ready_life_that_is_killed_from_outside_starts_the_delays_anew() -> None:
    """A broker that somebody kills again and again must not stay away for ever longer: requests wait for it."""
    watch = started()
    for now in range(10):
        watch.died("broker", -9, now, was_killed=True)
        assert watch.next_due() == now + FIRST_DELAY_S
        watch.tick(now + 0.5)
        watch.ready("broker", now + 0.5)
    watch.died("broker", -9, 10, was_killed=True)
    watch.tick(10.5)
    watch.died("broker", -9, 11, was_killed=True)
    assert watch.next_due() == 11 + 2 * FIRST_DELAY_S, "it was not ready"


def crash(watch: Watch, name: str, now: float) -> tuple[list[Action], float]:
    """Let it die as soon as it starts, LOOP_DEATHS times: what followed, and when."""
    for _ in range(LOOP_DEATHS):
        now += 1
        actions = watch.died(name, 1, now)
        if not actions:
            now += LAST_DELAY_S / 2
            watch.tick(now)
    return actions, now


def test_a_crash_loop_is_given_up() -> None:
    watch = make_watch()
    watch.tick(0)
    actions, now = crash(watch, "w0", 0)
    assert actions == [GaveUp("w0", f"died {LOOP_DEATHS} times in {now - 1:.0f} s and was never ready")]
    assert watch.tick(now + LAST_DELAY_S) == []


def test_without_any_worker_all_is_over() -> None:
    watch = make_watch("w0")
    watch.tick(0)
    actions, _ = crash(watch, "w0", 0)
    assert [type(action) for action in actions] == [GaveUp, Over]
    assert actions[1].status == 1  # type: ignore[union-attr]


def test_the_last_worker_that_cannot_start_as_told_ends_all_with_its_status() -> None:
    watch = make_watch("w0", "w1")
    watch.tick(0)
    words = "cannot start as it was told to"
    assert watch.died("w0", SETUP_STATUS, 1) == [GaveUp("w0", words)]
    assert watch.died("w1", SETUP_STATUS, 1) == [GaveUp("w1", words), Over(2, f"w1 {words}")]


def test_a_broker_in_a_crash_loop_ends_all() -> None:
    watch = make_watch()
    watch.tick(0)
    actions, _ = crash(watch, "broker", 0)
    assert [type(action) for action in actions] == [GaveUp, Over]


def test_one_that_was_ready_is_never_given_up() -> None:
    watch = started()
    now = 0.0
    for _ in range(3 * LOOP_DEATHS):
        assert watch.died("w0", -6, now) == []
        now += LAST_DELAY_S
        assert watch.tick(now) == [Start("w0")]
        watch.ready("w0", now)


def test_one_killed_from_outside_again_and_again_while_it_loads_is_not_given_up() -> None:
    watch = started()
    now = 0.0
    for _ in range(3 * LOOP_DEATHS):
        assert watch.died("w0", -9, now, was_killed=True) == []
        due = watch.next_due()
        assert due is not None
        assert watch.tick(due) == [Start("w0")]
        now = due + 1


def test_one_that_was_never_ready_is_given_up_whoever_killed_it() -> None:
    """The killer may be a container's memory limit, of which nobody tells."""
    watch = make_watch()
    watch.tick(0)
    actions: list[Action] = []
    for now in range(LOOP_DEATHS):
        actions = watch.died("w0", -9, now, was_killed=True)
        watch.tick(now + LAST_DELAY_S)
    assert [type(action) for action in actions] == [GaveUp]


def test_slow_deaths_are_no_loop() -> None:
    watch = make_watch()
    watch.tick(0)
    now = 0.0
    for _ in range(3 * LOOP_DEATHS):
        now += 20
        assert watch.died("w0", 1, now) == []
        watch.tick(now + LAST_DELAY_S)


def test_a_wrong_set_up_is_given_up_at_once() -> None:
    watch = make_watch()
    watch.tick(0)
    assert watch.died("w0", 2, 1) == [GaveUp("w0", "cannot start as it was told to")]


def test_a_wrong_set_up_after_a_good_life_is_tried_again() -> None:
    watch = started()
    assert watch.died("w0", 2, 1) == []
    assert watch.next_due() is not None


def test_deaths_are_told_with_their_cause_and_what_follows() -> None:
    watch = started()
    assert watch.troubles() == []
    watch.died("w0", -11, 1, words="at 12:00:00: died of SIGSEGV")
    assert watch.troubles() == [
        f"w0 died once, last at 12:00:00: died of SIGSEGV; it starts again after {FIRST_DELAY_S} s"
    ]
    watch.tick(2)
    watch.died("w0", -11, 3, words="at 12:00:02: died of SIGABRT")
    watch.tick(4)
    assert watch.troubles() == ["w0 died 2 times, last at 12:00:02: died of SIGABRT"]
    watch.tick(5)
    watch.ready("w0", 5)
    watch.died("w1", 0, 6)
    assert len(watch.troubles()) == 1, "one that was drained has not died"


def test_one_that_is_given_up_stays_told() -> None:
    watch = make_watch()
    watch.tick(0)
    watch.died("w0", 2, 1, words="at 12:00:00: no such model")
    assert watch.troubles() == ["w0 is given up: it cannot start as it was told to; last at 12:00:00: no such model"]


def test_a_pool_of_many_failed_loads_tells_of_the_last_ones() -> None:
    watch = Watch(DRAIN_S, may_idle=True)
    for number in range(MAX_GIVEN_UP + 1):
        watch.add(f"w{number}", Role.WORKER, 0)
        watch.tick(0)
        watch.died(f"w{number}", 2, 1, words="at 12:00:00: no such model")
    assert len(watch.troubles()) == MAX_GIVEN_UP
    assert watch.troubles()[-1].startswith(f"w{MAX_GIVEN_UP} is given up")


def test_a_drained_worker_has_gone_for_good() -> None:
    watch = started()
    assert watch.died("w0", 0, 1) == []
    assert watch.tick(100) == []
    assert "w0" not in watch.posts


def test_a_front_that_ends_by_itself_is_started_again() -> None:
    watch = started()
    watch.died("front", 0, 1)
    assert watch.tick(2) == [Start("front")]


def test_a_drain_ends_fronts_then_workers_then_broker() -> None:
    watch = started()
    assert watch.drain(1) == [Terminate("front")]
    assert watch.died("front", 0, 2) == [Terminate("w0"), Terminate("w1")]
    assert watch.died("w1", 0, 3) == []
    assert watch.died("w0", 0, 4) == [Terminate("broker")]
    assert watch.died("broker", 0, 5) == [Over(0, "drained")]


def test_streams_keep_their_worker_while_fronts_drain() -> None:
    watch = started()
    watch.drain(1)
    assert watch.died("w0", -9, 2) == []
    assert watch.tick(3) == [Start("w0")]


def test_a_second_drain_ends_at_once() -> None:
    watch = started()
    watch.drain(1)
    assert [type(action) for action in watch.drain(2)] == [Over]


def test_a_drain_that_takes_too_long_ends() -> None:
    watch = started()
    watch.drain(1)
    assert watch.next_due() == 1 + DRAIN_S
    assert [type(action) for action in watch.tick(1 + DRAIN_S)] == [Over]


def test_one_that_retires_goes_once_its_successor_is_ready() -> None:
    watch = started()
    assert watch.retire("w0", "w2", 30, 10) == []
    assert watch.tick(10) == [Start("w2")]
    assert watch.ready("w0", 11) == [], "the old one"
    assert watch.ready("w2", 15) == [Terminate("w0")]
    assert watch.ready("w2", 16) == [], "it is told once"
    assert watch.died("w0", 0, 20) == [Retired("w0", "")]
    assert "w0" not in watch.posts
    assert watch.ready("w2", 21) == []
    assert watch.next_due() is None
    assert watch.troubles() == []


def test_one_whose_streams_take_too_long_hands_them_over_and_is_killed_if_it_does_not() -> None:
    watch = started()
    watch.retire("w0", "", 30, 10)
    assert watch.next_due() == 40
    assert watch.tick(39) == []
    assert watch.tick(40) == [HandOver("w0")]
    assert watch.tick(41) == []
    assert watch.tick(40 + OBEY_S) == [Kill("w0")]
    assert watch.died("w0", -9, 46, was_killed=True) == [Retired("w0", "")]


def test_one_without_a_successor_is_told_to_go_at_once() -> None:
    watch = started()
    assert watch.retire("w0", "", float("inf"), 10) == [Terminate("w0")]
    assert watch.tick(1e6) == []
    assert watch.died("w0", 0, 1e6) == [Retired("w0", "")]
    assert "w0" not in watch.posts


def test_one_that_is_followed_by_itself_is_back_before_it_counts() -> None:
    watch = started()
    assert watch.retire("w0", "w0", 30, 10) == [Terminate("w0")]
    assert watch.ready("w0", 11) == [], "it still lives"
    assert watch.died("w0", 0, 12) == []
    assert watch.tick(12) == [Start("w0")]
    assert watch.ready("w0", 15) == [Retired("w0", "")]
    assert watch.troubles() == []


def test_a_successor_that_cannot_start_leaves_the_old_one_where_it_is() -> None:
    watch = started()
    watch.retire("w0", "w2", 30, 10)
    watch.tick(10)
    actions = watch.died("w2", 2, 12, words="at 12:00:00: no memory")
    assert actions == [
        GaveUp("w2", "cannot start as it was told to"),
        Retired("w0", "its successor cannot start as it was told to: at 12:00:00: no memory"),
    ]
    assert watch.tick(100) == []
    assert watch.retire("w0", "w3", 30, 101) == [], "it may be tried again"


def test_a_successor_that_dies_while_it_loads_is_started_again() -> None:
    watch = started()
    watch.retire("w0", "w2", 30, 10)
    watch.tick(10)
    assert watch.died("w2", -11, 12) == []
    assert watch.tick(13) == [Start("w2")]
    assert watch.ready("w2", 15) == [Terminate("w0")]


def test_one_that_dies_before_its_successor_is_ready_is_not_started_again() -> None:
    watch = started()
    watch.retire("w0", "w2", 30, 10)
    watch.tick(10)
    assert watch.died("w0", -9, 12) == []
    assert watch.tick(100) == []
    assert watch.ready("w2", 101) == [Retired("w0", "")]


def test_one_that_is_dismissed_while_it_retires_does_neither_stay_nor_return() -> None:
    watch = started()
    watch.retire("w0", "w0", 30, 10)
    watch.dismiss("w0")
    assert watch.died("w0", 0, 12) == [Retired("w0", "it was dismissed meanwhile")]
    assert watch.tick(100) == []
    watch.retire("w1", "w2", 30, 110)
    watch.tick(110)
    watch.dismiss("w2")
    assert watch.died("w2", 0, 112) == [Retired("w1", "its successor was dismissed")]


class AnyWatch(RuleBasedStateMachine):
    """Whatever happens: none is forgotten, none is started twice, and a drain comes to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.watch = make_watch("w0", "w1", "w2")
        self.now = 0.0
        self.alive: set[str] = set()
        self.terminated: set[str] = set()
        self.over = False
        self.num_posts = 3
        self.retiring: set[str] = set()

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(name):
                    assert name not in self.alive
                    self.alive.add(name)
                case Terminate(name):
                    assert name in self.alive
                    self.terminated.add(name)
                case HandOver(name) | Kill(name):
                    assert name in self.alive & self.terminated
                case Retired(name):
                    self.retiring.remove(name)
                case Over():
                    self.over = True

    @rule(passed=st.floats(0, 20))
    def wait(self, passed: float) -> None:
        self.now += passed
        if not self.over:
            self.perform(self.watch.tick(self.now))

    @precondition(lambda self: not self.over and self.alive)
    @rule(data=st.data(), status=st.sampled_from([0, 1, 2, -9, -11]))
    def die(self, data: st.DataObject, status: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.discard(name)
        self.terminated.discard(name)
        self.perform(self.watch.died(name, status, self.now))

    @precondition(lambda self: not self.over and self.alive)
    @rule(data=st.data())
    def become_ready(self, data: st.DataObject) -> None:
        self.perform(self.watch.ready(data.draw(st.sampled_from(sorted(self.alive))), self.now))

    def workers(self) -> list[str]:
        """Those that may be told to retire."""
        return [
            name
            for name, post in self.watch.posts.items()
            if post.role is Role.WORKER and not (name in self.retiring or self.watch.is_awaited(name))
        ]

    @precondition(lambda self: not self.over and not self.watch.is_draining and self.workers())
    @rule(data=st.data(), way=st.sampled_from(["none", "before", "after"]), timeout_s=st.sampled_from([0.0, 30.0]))
    def retire(self, data: st.DataObject, way: str, timeout_s: float) -> None:
        name = data.draw(st.sampled_from(self.workers()))
        if way == "before":
            self.num_posts += 1
        successor = {"none": "", "before": f"w{self.num_posts}", "after": name}[way]
        self.retiring.add(name)
        self.perform(self.watch.retire(name, successor, timeout_s, self.now))

    @precondition(lambda self: not self.over and not self.watch.is_draining)
    @rule(data=st.data())
    def dismiss(self, data: st.DataObject) -> None:
        if workers := [name for name, post in self.watch.posts.items() if post.role is Role.WORKER]:
            self.perform(self.watch.dismiss(data.draw(st.sampled_from(workers))))

    @precondition(lambda self: not self.over)
    @rule()
    def drain(self) -> None:
        self.perform(self.watch.drain(self.now))

    @invariant()
    def holds(self) -> None:
        self.watch.check()
        assert self.over or self.watch.is_draining or self.retiring == self.watch.retirements.keys()
        assert self.over or self.alive == {
            name for name, post in self.watch.posts.items() if post.alive_since is not None
        }

    def teardown(self) -> None:
        if not self.over and not self.watch.is_draining:
            self.perform(self.watch.drain(self.now))
        while not self.over:
            leaving = self.alive & self.terminated
            assert leaving, "the drain waits for nobody"
            name = leaving.pop()
            self.alive.discard(name)
            self.perform(self.watch.died(name, 0, self.now))


TestAnyWatch = AnyWatch.TestCase
TestAnyWatch.settings = settings(max_examples=60, stateful_step_count=30)
