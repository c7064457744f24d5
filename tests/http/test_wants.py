"""What a front waits for: one want a model, said again while anybody is left, and one end for each who waits."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tokenyard.broker.config import SUBMIT_REPEAT_S
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import LoadFailed, Loading, Want
from tokenyard.http.streams import ACCEPT_WITHIN_S
from tokenyard.http.wants import Action, Over, Say, Settle, Wants

WANT = Want("org/model", "org/model@c0ffee", 1 << 30)
TIMEOUT_S = 600.0


def error_of(action: Action) -> TokenyardError:
    assert isinstance(action, Settle)
    assert action.error is not None
    return action.error


def test_all_that_wait_share_one_want_and_one_end() -> None:
    wants = Wants(TIMEOUT_S)
    first, said = wants.wait(WANT, 0.0, True)
    assert said == [Say(WANT)], "at once"
    second, said = wants.wait(WANT, 0.1, True)
    assert said == []
    assert wants.tick(SUBMIT_REPEAT_S - 0.01, True) == []
    assert wants.tick(SUBMIT_REPEAT_S, True) == [Say(WANT)]
    wants.loading(Loading(WANT.model, "loading", 0.42, "words"))
    assert [one.fraction for one in wants.progress()] == [0.42]
    assert wants.up("another", 4.0) == []
    assert wants.up(WANT.model, 5.0) == [Settle([first, second], None), Over(WANT.model, "up", 5.0)]
    assert (wants.progress(), wants.tick(9.0, True), wants.up(WANT.model, 9.0)) == ([], [], [])


def test_whoever_leaves_counts_no_more_and_the_last_ends_the_want() -> None:
    wants = Wants(TIMEOUT_S)
    first, _ = wants.wait(WANT, 0.0, True)
    second, _ = wants.wait(WANT, 0.0, True)
    assert wants.leave(first, 1.0) == []
    assert wants.tick(1.0, True) == [Say(WANT)]
    assert wants.leave(second, 2.0) == [Over(WANT.model, "cancelled", 2.0)]
    assert wants.leave(second, 2.0) == []
    assert wants.tick(3.0, True) == []


@pytest.mark.parametrize(("code", "told"), [("model_too_large", "model_too_large"), ("new_code", "model_load_failed")])
def test_a_failure_reaches_all_in_its_own_words(code: str, told: str) -> None:
    wants = Wants(TIMEOUT_S)
    waiters = [wants.wait(WANT, 0.0, True)[0] for _ in range(3)]
    settle, over = wants.failed(LoadFailed(WANT.model, code, "a broken shard"), 1.0)
    error = error_of(settle)
    assert (error.code, error.words, error.param) == (told, "a broken shard", "model")
    assert isinstance(settle, Settle)
    assert settle.waiters == waiters
    assert over == Over(WANT.model, told, 1.0)


def test_a_wait_has_an_end_and_says_how_far_it_was() -> None:
    wants = Wants(TIMEOUT_S)
    wants.wait(WANT, 0.0, True)
    later, _ = wants.wait(WANT, 100.0, True)
    wants.loading(Loading(WANT.model, "loading", 0.42, "42 % loaded"))
    late, _ = wants.tick(TIMEOUT_S, True)
    error = error_of(late)
    assert error.code == "model_loading"
    assert "600 s" in error.words
    assert "42 % loaded" in error.words
    wants.loading(Loading(WANT.model, "loading", 0.43, ""))
    settle, over = wants.tick(TIMEOUT_S + 100, True)
    assert isinstance(settle, Settle)
    assert settle.waiters == [later]
    assert over == Over(WANT.model, "model_loading", TIMEOUT_S + 100)


def test_nothing_is_said_before_a_broker_hears_it() -> None:
    wants = Wants(TIMEOUT_S)
    assert wants.wait(WANT, 0.0, False)[1] == []
    assert wants.tick(1.0, False) == []
    assert wants.tick(1.1, True) == [Say(WANT)]


@pytest.mark.parametrize("connected", [True, False])
def test_without_a_broker_a_wait_ends_all_the_same(connected: bool) -> None:
    wants = Wants(TIMEOUT_S)
    wants.wait(WANT, 0.0, connected)
    assert not any(isinstance(one, Settle) for one in wants.tick(ACCEPT_WITHIN_S - 0.1, connected))
    settle, _ = wants.tick(ACCEPT_WITHIN_S, connected)
    assert error_of(settle).code == "pool_unavailable"


def test_a_broker_that_falls_silent_ends_a_wait() -> None:
    wants = Wants(TIMEOUT_S)
    wants.wait(WANT, 0.0, True)
    wants.loading(Loading(WANT.model, "starting", 0.0, ""))
    assert wants.tick(60.0, True) == [Say(WANT)], "our own sleep is not the broker's"
    settle, _ = wants.tick(60.0 + ACCEPT_WITHIN_S, True)
    assert error_of(settle).code == "pool_unavailable"


def test_too_many_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenyard.http.wants.MAX_WAITERS", 2)
    wants = Wants(TIMEOUT_S)
    for _ in range(2):
        wants.wait(WANT, 0.0, True)
    with pytest.raises(TokenyardError, match="2 requests wait for org/model") as caught:
        wants.wait(WANT, 0.0, True)
    assert caught.value.code == "queue_full"
    wants.wait(WANT._replace(model="another"), 0.0, True)
    wants.check()


MODELS = [Want(name, name, 0) for name in ("a", "b")]


class Crowd(RuleBasedStateMachine):
    """Clients come, go and wait for two models; the broker comes, goes and says what it likes."""

    @initialize(connected=st.booleans())
    def begin(self, connected: bool) -> None:
        self.now = 0.0
        self.connected = connected
        self.wants = Wants(20.0)
        self.waiting: dict[int, str] = {}
        self.since: dict[str, float] = {}
        """Since when a model is wanted without a pause."""
        self.said: dict[str, float] = {}

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Say):
                assert self.connected
                assert action.message.model in self.waiting.values()
                self.said[action.message.model] = self.now
            elif isinstance(action, Settle):
                for waiter in action.waiters:
                    del self.waiting[waiter]
            else:
                assert action.model not in self.waiting.values()
                assert action.seconds == self.now - self.since.pop(action.model)

    @rule(want=st.sampled_from(MODELS))
    def wait_for(self, want: Want) -> None:
        waiter, actions = self.wants.wait(want, self.now, self.connected)
        assert waiter not in self.waiting
        self.waiting[waiter] = want.model
        self.since.setdefault(want.model, self.now)
        self.do(actions)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from([*self.waiting, 0]))
        self.waiting.pop(waiter, None)
        self.do(self.wants.leave(waiter, self.now))

    @rule(want=st.sampled_from(MODELS), fraction=st.floats(0, 1))
    def progress(self, want: Want, fraction: float) -> None:
        self.wants.loading(Loading(want.model, "loading", fraction, ""))
        known = self.wants.progress_of(want.model)
        assert known is None or known.fraction == fraction

    @rule(want=st.sampled_from(MODELS))
    def come_up(self, want: Want) -> None:
        self.do(self.wants.up(want.model, self.now))
        assert want.model not in self.waiting.values()

    @rule(want=st.sampled_from(MODELS))
    def fail(self, want: Want) -> None:
        self.do(self.wants.failed(LoadFailed(want.model, "model_load_failed", ""), self.now))
        assert want.model not in self.waiting.values()

    @rule()
    def meet_broker(self) -> None:
        self.connected = True

    @rule(seconds=st.sampled_from([0.1, SUBMIT_REPEAT_S, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.wants.tick(self.now, self.connected))
        if self.connected:
            for model in self.waiting.values():
                assert self.now - self.said[model] < SUBMIT_REPEAT_S

    @invariant()
    def all_is_remembered_and_nothing_else(self) -> None:
        if hasattr(self, "wants"):
            assert len(self.wants) == len(set(self.waiting.values())) == len(self.since)
            self.wants.check()


Crowd.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestCrowd = Crowd.TestCase
