"""The front's job memory: exactly one end a job, no token lost or repeated, whatever broker and workers do."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tokenyard.broker.codec import unpack_ids
from tokenyard.broker.config import SUBMIT_REPEAT_S
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import Cancel, Delta, Finish, FrontJob, Lost, Reject, Submit
from tokenyard.http.streams import (
    ACCEPT_WITHIN_S,
    Action,
    Deliver,
    Fail,
    JobRequest,
    Missing,
    Release,
    Send,
    Streams,
)

W1, W2 = b"worker_1", b"worker_2"
LENGTH = 6


def request(deadline_ms: int = 0) -> JobRequest:
    return JobRequest("model", [1, 2, 3], Params(max_tokens=LENGTH), deadline_ms=deadline_ms)


def submits(actions: Sequence[Action]) -> list[Submit]:
    return [action.message for action in actions if isinstance(action, Send) and isinstance(action.message, Submit)]


def started(now: float = 0.0, deadline_ms: int = 0) -> tuple[Streams, int]:
    streams = Streams()
    job, actions = streams.submit(request(deadline_ms), b"\1\0\0\0", [b"key"], now)
    (submit,) = submits(actions)
    assert (submit.job, submit.attempt, submit.emitted_ids) == (job, 1, b"")
    return streams, job


def test_a_submit_is_repeated_until_accepted() -> None:
    streams, job = started()
    assert submits(streams.tick(SUBMIT_REPEAT_S / 2)) == []
    (repeat,) = submits(streams.tick(SUBMIT_REPEAT_S))
    assert repeat.attempt == 1
    streams.accepted(job, 1)
    assert streams.tick(10.0) == []
    assert streams.claims() == [FrontJob(job, 1)]


def test_a_lost_attempt_is_followed_by_one_that_resumes() -> None:
    streams, job = started()
    streams.accepted(job, 1, W1)
    streams.delta(W1, Delta(job, 1, 0, [10, 11]), 0.1)
    (submit,) = submits(streams.lost(Lost(job, 1, 1), 1.0))
    assert (submit.attempt, unpack_ids(submit.emitted_ids), submit.crashes) == (2, [10, 11], 1)
    assert streams.lost(Lost(job, 1, 1), 1.0) == []
    # The old worker was only asleep: its tokens are fenced from now on.
    assert streams.delta(W1, Delta(job, 1, 2, [99]), 1.2) == []
    finish = Finish("stop")
    assert streams.delta(W2, Delta(job, 2, 2, [12], {}, finish), 1.3) == [Deliver(job, [12], {}, finish)]
    assert len(streams) == 0


def test_tokens_of_an_adapter_ask_for_its_version_again() -> None:
    streams, job = started()
    streams.delta(W1, Delta(job, 1, 0, [], {"adapter_version": "v1"}), 0.1)
    (submit,) = submits(streams.lost(Lost(job, 1, 0), 1.0))
    assert submit.version == "", "nothing was drawn yet: any will do"
    streams.delta(W2, Delta(job, 2, 0, [10], {"adapter_version": "v2"}), 1.2)
    streams.delta(W2, Delta(job, 2, 1, [11]), 1.3)
    (submit,) = submits(streams.lost(Lost(job, 2, 0), 2.0))
    assert (submit.attempt, submit.version) == (3, "v2")


def test_a_gap_inside_an_attempt_makes_it_start_again() -> None:
    streams, job = started()
    streams.delta(W1, Delta(job, 1, 0, [10]), 0.1)
    assert streams.delta(W1, Delta(job, 1, 3, [13]), 0.2) == []
    (submit,) = submits(streams.tick(0.2))
    assert (submit.attempt, unpack_ids(submit.emitted_ids)) == (2, [10])


def test_what_a_worker_has_freed_goes_on_in_a_next_attempt() -> None:
    streams, job = started()
    streams.delta(W1, Delta(job, 1, 0, [10, 11]), 0.1)
    elsewhere, _ = streams.submit(request(), b"", [], 0.1)
    streams.accepted(elsewhere, 1, W2)
    streams.forgotten(W1, 1.0)
    (submit,) = submits(streams.tick(1.0))
    assert (submit.job, submit.attempt, unpack_ids(submit.emitted_ids)) == (job, 2, [10, 11])


def test_a_new_broker_gets_only_what_has_not_begun() -> None:
    streams, begun = started()
    streams.delta(W1, Delta(begun, 1, 0, [10]), 0.1)
    waiting, _ = streams.submit(request(), b"", [], 0.1)
    streams.accepted(waiting, 1)
    streams.new_broker(1.0)
    (submit,) = submits(streams.tick(1.0))
    assert (submit.job, submit.attempt) == (waiting, 2)
    assert streams.claims() == [FrontJob(begun, 1)]


def test_cancel_reaches_worker_and_broker_and_silences_the_job() -> None:
    streams, job = started()
    streams.delta(W1, Delta(job, 1, 0, [10]), 0.1)
    assert streams.cancel(job) == [Release(job, W1), Send(Cancel(job))]
    assert streams.cancel(job) == []
    assert streams.delta(W1, Delta(job, 1, 1, [11]), 0.2) == [Release(job, W1)], "in case both messages were lost"
    assert streams.delta(W1, Delta(job, 1, 1, [11], {}, Finish("stop")), 0.2) == []


@pytest.mark.parametrize(("code", "param"), [("model_load_failed", "model"), ("queue_full", None)])
def test_a_reject_ends_the_job_with_its_words(code: str, param: str | None) -> None:
    streams, job = started()
    *_, failed = streams.rejected(Reject(job, 1, code, "words", 500), 0.1)
    assert isinstance(failed, Fail)
    assert (failed.error.code, failed.error.words, failed.error.param, failed.error.retry_ms) == (
        code, "words", param, 500,
    )  # fmt: skip
    assert streams.rejected(Reject(job, 1, code, "words", 500), 0.1) == []


def test_a_model_that_the_broker_forgot_is_missed_once() -> None:
    streams, job = started()
    forgotten = Reject(job, 1, "model_not_found", "words", 0)
    (missing,) = streams.rejected(forgotten, 0.1)
    assert isinstance(missing, Missing)
    assert (missing.job, missing.model, missing.error.param) == (job, "model", "model")
    assert streams.rejected(forgotten, 0.2) == []
    streams.new_broker(0.3)
    assert streams.tick(100.0) == [], "its model may take long"
    streams.found(job, 100.0)
    (submit,) = submits(streams.tick(100.0))
    assert submit.attempt == 2, "the broker remembers how the first one ended"
    *_, failed = streams.rejected(forgotten._replace(attempt=2), 100.1)
    assert isinstance(failed, Fail)
    streams.found(job, 100.2)
    assert len(streams) == 0


def test_a_missed_model_that_cannot_be_had_fails_the_job() -> None:
    streams, job = started()
    (missing,) = streams.rejected(Reject(job, 1, "model_not_found", "words", 0), 0.1)
    assert isinstance(missing, Missing)
    error = TokenyardError("model_load_failed", "broken")
    assert streams.give_up(job, error) == [Send(Cancel(job)), Fail(job, error)]
    assert streams.give_up(job, error) == []


def test_a_reject_of_an_older_attempt_is_ignored() -> None:
    streams, job = started()
    streams.lost(Lost(job, 1, 0), 0.0)
    assert streams.rejected(Reject(job, 1, "queue_full", "", 0), 0.1) == []


def test_an_error_finish_fails_the_job() -> None:
    streams, job = started()
    (failed,) = streams.delta(W1, Delta(job, 1, 0, [], {}, Finish("error", "invalid_value", "bad id", "prompt")), 0.1)
    assert isinstance(failed, Fail)
    assert (failed.error.code, failed.error.param) == ("invalid_value", "prompt")


def test_a_code_of_another_version_is_an_error_like_any_other() -> None:
    streams, job = started()
    *_, fail = streams.rejected(Reject(job, 1, "of_tomorrow", "words", 0), 0.0)
    assert isinstance(fail, Fail)
    assert (fail.error.code, fail.error.words) == ("worker_error", "words")
    streams, job = started()
    *_, fail = streams.delta(W1, Delta(job, 1, 0, [], {}, Finish("error", "of_tomorrow", "words")), 0.0)
    assert isinstance(fail, Fail)
    assert (fail.error.code, fail.error.words) == ("worker_error", "words")


def test_a_deadline_ends_a_wait_without_a_broker() -> None:
    streams, _ = started(deadline_ms=1000)
    (repeat,) = submits(streams.tick(0.6))
    assert repeat.deadline_ms == 400
    *_, failed = streams.tick(1.01)
    assert isinstance(failed, Fail)
    assert failed.error.code == "deadline_exceeded"


def test_without_a_broker_a_request_is_answered_all_the_same() -> None:
    streams, _ = started()
    streams.tick(ACCEPT_WITHIN_S / 2)
    *_, failed = streams.tick(ACCEPT_WITHIN_S)
    assert isinstance(failed, Fail)
    assert failed.error.code == "pool_unavailable"
    assert len(streams) == 0


class BadDays(RuleBasedStateMachine):
    """Workers that emit the right tokens from wherever they were told to start; everything else goes wrong."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.streams = Streams()
        self.job, actions = self.streams.submit(request(), b"", [], 0.0)
        self.got: list[int] = []
        self.ends = 0
        self.attempts: dict[int, int] = {}
        """Attempt to the next index that its worker will emit."""
        self.do(actions)

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Deliver):
                self.got += action.token_ids
                self.ends += action.finish is not None
            elif isinstance(action, Fail):
                self.ends += 1
            elif isinstance(action, Send) and isinstance(action.message, Submit):
                self.attempts.setdefault(action.message.attempt, len(unpack_ids(action.message.emitted_ids)))

    @rule(pick=st.integers(0, 3), count=st.integers(0, 2))
    def emit(self, pick: int, count: int) -> None:
        attempt = sorted(self.attempts)[-1 - pick % len(self.attempts)]
        first = self.attempts[attempt]
        tokens = list(range(100 + first, 100 + min(first + count, LENGTH)))
        finish = Finish("length") if first + len(tokens) == LENGTH else None
        self.attempts[attempt] += len(tokens)
        self.do(self.streams.delta(W1, Delta(self.job, attempt, first, tokens, {}, finish), self.now))

    @rule()
    def lose(self) -> None:
        self.do(self.streams.lost(Lost(self.job, max(self.attempts), 0), self.now))

    @rule()
    def accept(self) -> None:
        self.streams.accepted(self.job, max(self.attempts))

    @rule()
    def forget_model(self) -> None:
        self.do(self.streams.rejected(Reject(self.job, max(self.attempts), "model_not_found", "", 0), self.now))

    @rule()
    def bring_back_model(self) -> None:
        self.streams.found(self.job, self.now)

    @rule()
    def new_broker(self) -> None:
        self.streams.new_broker(self.now)

    @rule(seconds=st.sampled_from([0.001, SUBMIT_REPEAT_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.streams.tick(self.now))

    @invariant()
    def right_tokens_one_end(self) -> None:
        if hasattr(self, "got"):
            assert self.got == list(range(100, 100 + len(self.got)))
            assert self.ends <= 1
            assert (self.ends == 1) == (len(self.streams) == 0)
            self.streams.check()


BadDays.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestBadDays = BadDays.TestCase
