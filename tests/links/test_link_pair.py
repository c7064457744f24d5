"""Both ends of the token link against each other, over a channel that drops, repeats, delays and cuts."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tokenyard.broker.codec import decode
from tokenyard.broker.config import ACK_BATCHES, RESUME_S, WINDOW
from tokenyard.broker.identity import Identity
from tokenyard.broker.wire import Ack, Delta, Idle, LinkUp, Resume, Tokens
from tokenyard.http.inbox import Inbox
from tokenyard.workers.link import IDLE_MAX_S, SendLink

FRONT, WORKER = Identity.of(b"front"), b"worker__"


class Pair:
    """One link whose two directions are lists that a test may tamper with."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sender = SendLink(WORKER, self.now)
        self.inbox = Inbox(FRONT, WORKER, self.now)
        self.down: list[bytes] = []
        self.up: list[Resume | Ack] = []
        self.pushed: list[int] = []
        self.delivered: list[int] = []

    def push(self) -> None:
        token = len(self.pushed)
        self.pushed.append(token)
        self.down += self.sender.push([Delta(1, 1, token, [token])], self.now)

    def pass_down(self) -> None:
        message = decode(self.down.pop(0))
        assert isinstance(message, LinkUp | Tokens | Idle)
        deltas, up, _ = self.inbox.receive(message, self.now)
        self.delivered += [token for delta in deltas for token in delta.token_ids]
        self.up += up

    def pass_up(self) -> None:
        message = self.up.pop(0)
        if isinstance(message, Resume):
            self.down += self.sender.resume(message.from_seq, self.now)
        else:
            self.down += self.sender.ack(message.upto, self.now)

    def reconnect(self) -> None:
        """The connection breaks, with all that was in it, and comes back."""
        self.down.clear()
        self.up.clear()
        self.sender.unsubscribe(self.now)
        self.down += self.sender.subscribe(self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.down += self.sender.tick(self.now)
        self.up += self.inbox.tick(self.now)

    def settle(self) -> None:
        """Let an undisturbed link do its work until it is quiet."""
        for _ in range(40):
            while self.down or self.up:
                if self.down:
                    self.pass_down()
                if self.up:
                    self.pass_up()
            self.wait(IDLE_MAX_S)


class LossyLink(RuleBasedStateMachine):
    """Whatever the channel does, tokens come in order and once, and all of them once it behaves."""

    @initialize()
    def connect(self) -> None:
        self.pair = Pair()
        self.pair.reconnect()

    @rule(count=st.integers(1, 3))
    def push(self, count: int) -> None:
        for _ in range(count):
            self.pair.push()

    @rule()
    def pass_down(self) -> None:
        if self.pair.down:
            self.pair.pass_down()

    @rule()
    def pass_up(self) -> None:
        if self.pair.up:
            self.pair.pass_up()

    @rule(index=st.integers(0, 5))
    def drop_down(self, index: int) -> None:
        del self.pair.down[index : index + 1]

    @rule(index=st.integers(0, 5))
    def drop_up(self, index: int) -> None:
        del self.pair.up[index : index + 1]

    @rule(index=st.integers(0, 5))
    def repeat_down(self, index: int) -> None:
        self.pair.down += self.pair.down[index : index + 1]

    @rule(index=st.integers(0, 5))
    def repeat_up(self, index: int) -> None:
        self.pair.up += self.pair.up[index : index + 1]

    @rule()
    def reconnect(self) -> None:
        self.pair.reconnect()

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.5, 1.5]))
    def wait(self, seconds: float) -> None:
        self.pair.wait(seconds)

    @invariant()
    def in_order_and_once(self) -> None:
        if hasattr(self, "pair"):
            assert self.pair.delivered == self.pair.pushed[: len(self.pair.delivered)]
            self.pair.sender.check()
            self.pair.inbox.check()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.settle()
            assert self.pair.delivered == self.pair.pushed
            assert self.pair.sender.oldest == self.pair.sender.next_seq, "all is acknowledged and forgotten"


LossyLink.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestLossyLink = LossyLink.TestCase


def connected() -> Pair:
    pair = Pair()
    pair.reconnect()
    pair.settle()
    return pair


def test_a_lost_tail_is_noticed_without_another_token() -> None:
    pair = connected()
    pair.push()
    pair.down.clear()
    pair.settle()
    assert pair.delivered == [0]


def test_a_lost_last_ack_is_repeated() -> None:
    pair = connected()
    pair.push()
    pair.pass_down()
    pair.wait(RESUME_S)
    assert any(isinstance(message, Ack) for message in pair.up)
    pair.up.clear()
    pair.settle()
    assert pair.sender.oldest == pair.sender.next_seq == 1


def test_a_lost_first_resume_is_repeated() -> None:
    pair = Pair()
    pair.reconnect()
    pair.pass_down()
    pair.up.clear()
    pair.push()
    pair.settle()
    assert pair.delivered == [0]


def test_a_lost_link_up_is_repeated() -> None:
    pair = connected()
    pair.push()
    pair.reconnect()
    pair.down.clear()
    pair.settle()
    assert pair.delivered == [0]


def test_a_quiet_link_is_quiet() -> None:
    pair = connected()
    pair.wait(5.0)
    assert (pair.down, pair.up) == ([], [])


def test_nothing_flows_before_the_front_asks() -> None:
    pair = Pair()
    pair.push()
    assert pair.down == []
    pair.down += pair.sender.subscribe(pair.now)
    assert len(pair.down) == 1, "LinkUp alone"
    pair.settle()
    assert pair.delivered == [0]


def test_no_more_than_a_window_is_ever_in_flight() -> None:
    pair = connected()
    for _ in range(2 * WINDOW):
        pair.push()
        pair.sender.check()
    assert len(pair.down) == WINDOW
    assert pair.sender.full
    pair.settle()
    assert pair.delivered == pair.pushed
    assert not pair.sender.full


def test_a_flood_of_resumes_is_answered_as_often_as_a_front_may_ask() -> None:
    """A window for each would take the worker's time, and the memory of whoever does not read it."""
    pair = connected()
    for _ in range(100):
        pair.push()
    pair.wait(RESUME_S)
    num_sent = sum(len(pair.sender.resume(0, pair.now + index / 1000)) for index in range(100))
    assert num_sent == 4 * 100, "in 0.1 s"
    pair.now += 1
    pair.settle()
    assert pair.delivered == pair.pushed


def test_acks_come_every_64_batches_not_every_batch() -> None:
    pair = connected()
    for _ in range(10 * ACK_BATCHES):
        pair.push()
        pair.pass_down()
    assert len(pair.up) == 10


def test_an_absent_front_expires_and_a_returning_one_does_not() -> None:
    pair = connected()
    pair.sender.unsubscribe(pair.now)
    assert not pair.sender.expired(pair.now + 2.9)
    assert pair.sender.expired(pair.now + 3.1)
    pair.sender.subscribe(pair.now)
    assert not pair.sender.expired(pair.now + 3.1)


def test_a_fresh_inbox_goes_on_where_the_worker_is() -> None:
    pair = connected()
    for _ in range(5):
        pair.push()
    pair.settle()
    pair.inbox = Inbox(FRONT, WORKER, pair.now)
    pair.reconnect()
    pair.push()
    pair.settle()
    assert pair.delivered == [0, 1, 2, 3, 4, 5]


def test_a_link_made_anew_is_noticed_and_counts_from_its_own_beginning() -> None:
    """The worker had freed the front, which was away for too long: what it had not delivered will not come."""
    pair = connected()
    for _ in range(3):
        pair.push()
    pair.settle()
    pair.push()
    pair.sender = SendLink(WORKER, pair.now, 1)
    pair.down = pair.sender.subscribe(pair.now)
    (link_up,) = map(decode, pair.down)
    assert isinstance(link_up, LinkUp)
    _, up, renewed = pair.inbox.receive(link_up, pair.now)
    assert renewed
    assert up == [Resume(FRONT.inc, WORKER, 0, FRONT.secret)]
    assert not pair.inbox.receive(link_up, pair.now).renewed, "said again"
    pair.push()
    pair.settle()
    assert pair.delivered == [0, 1, 2, 4]
