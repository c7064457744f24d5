"""The scheduler: decodes never wait, prompts share the rest, the youngest is preempted, all come to an end."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tokenyard.broker.params import Params
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers.blocks import BlockPool
from tokenyard.workers.scheduler import NO_DRAFTS, Guess, Held, Plan, Scheduler, Sequence, is_held

BLOCK = 4
ROOT = bytes(16)


def make(num_blocks: int = 20, max_num_seqs: int = 4, max_batch_tokens: int = 16) -> Scheduler:
    return Scheduler(BlockPool(num_blocks), BLOCK, max_num_seqs, max_batch_tokens, ROOT)


def sequence(number: int, length: int, front: bytes = b"a", first: int = 0, max_tokens: int = 99) -> Sequence:
    """Prompts of the same `first` share a prefix."""
    return Sequence(WorkerJob(front, number, 1), [first] * length, [], Params(max_tokens))


def added(scheduler: Scheduler, *lengths: int) -> list[Sequence]:
    sequences = [sequence(number, length, first=number) for number, length in enumerate(lengths)]
    for one in sequences:
        scheduler.add(one)
    return sequences


def run(scheduler: Scheduler, held: Held = ()) -> Plan:
    """One step whose every sampled token is 7."""
    plan = scheduler.schedule(held)
    for one in plan.decodes:
        scheduler.advance(one, len(one.ids))
        scheduler.append(one, 7)
    for one, _, end in plan.prefills:
        last = end == len(one.ids)
        scheduler.advance(one, end)
        if last:
            scheduler.append(one, 7)
    scheduler.check()
    return plan


def spans(plan: Plan) -> list[tuple[int, int, int]]:
    return [(one.job.job, start, end) for one, start, end in plan.prefills]


def test_prompts_share_the_budget_and_long_ones_take_several_steps() -> None:
    scheduler = make()
    added(scheduler, 10, 20, 3)
    assert spans(run(scheduler)) == [(0, 0, 10), (1, 0, 6)]
    plan = run(scheduler)
    assert [one.job.job for one in plan.decodes] == [0]
    assert spans(plan) == [(1, 6, 20), (2, 0, 1)]
    plan = run(scheduler)
    assert [one.job.job for one in plan.decodes] == [0, 1]
    assert spans(plan) == [(2, 1, 3)]


def test_no_more_than_max_num_seqs_run() -> None:
    scheduler = make(max_num_seqs=2)
    added(scheduler, 2, 2, 2)
    run(scheduler)
    assert (len(scheduler.running), len(scheduler.waiting)) == (2, 1)


def test_admission_leaves_a_spare_block_for_each_running_sequence() -> None:
    scheduler = make(num_blocks=5)
    first, second = added(scheduler, 8, 12)
    run(scheduler)
    assert scheduler.waiting == [second], "3 blocks are free and 3 needed, but the first grows soon"
    scheduler.remove(first)
    run(scheduler)
    assert scheduler.running == [second]


def test_the_youngest_is_preempted_and_keeps_its_tokens() -> None:
    scheduler = make(num_blocks=4)
    old, young = added(scheduler, 4, 3)
    for _ in range(5):
        run(scheduler)
    while young in scheduler.running:
        run(scheduler)
    kept = list(young.ids)
    assert len(kept) > 3
    assert not young.blocks
    assert scheduler.num_preempted == 1
    scheduler.remove(old)
    run(scheduler)
    assert list(young.ids) == [*kept, 7]


def test_a_preempted_sequence_goes_before_later_arrivals() -> None:
    scheduler = make(num_blocks=4)
    _, young, late = added(scheduler, 4, 3, 9)
    while not scheduler.num_preempted:
        run(scheduler)
    assert scheduler.waiting == [young, late]


def test_a_full_hit_still_computes_the_last_token() -> None:
    scheduler = make()
    scheduler.add(sequence(0, 8))
    run(scheduler)
    scheduler.add(sequence(1, 8))
    plan = run(scheduler)
    assert spans(plan) == [(1, 4, 8)]
    assert scheduler.hit_tokens == 4


def test_equal_prompts_wait_for_the_first_and_others_pass() -> None:
    scheduler = make()
    for number, first in enumerate((0, 0, 1)):
        scheduler.add(sequence(number, 9, first=first))
    assert spans(run(scheduler)) == [(0, 0, 9), (2, 0, 7)]
    plan = run(scheduler)
    assert [one.job.job for one in plan.decodes] == [0, 1], "all but the last token of 1 was found cached"
    assert spans(plan) == [(2, 7, 9)]


def test_held_fronts_rest_without_losing_their_place() -> None:
    scheduler = make()
    scheduler.add(sequence(0, 20, front=b"a"))
    run(scheduler)
    scheduler.add(sequence(1, 3, front=b"b", first=1))
    scheduler.add(sequence(2, 3, front=b"a", first=2))
    plan = run(scheduler, held={b"a"})
    assert spans(plan) == [(1, 0, 3)]
    assert spans(run(scheduler)) == [(0, 16, 20), (2, 0, 3)]


def test_a_paused_sequence_lends_its_blocks_and_finds_them_again() -> None:
    scheduler = make(num_blocks=6)
    (one,) = added(scheduler, 10)
    run(scheduler)
    paused = {one.job}
    assert run(scheduler, held=paused) == Plan([], [])
    assert not one.blocks
    other = sequence(1, 16, first=1)
    scheduler.add(other)
    assert spans(run(scheduler, held=paused)) == [(1, 0, 16)], "which needs four of the six"
    scheduler.remove(other)
    assert spans(run(scheduler)) == [(0, 8, 11)], "the block that was not full is computed anew"
    assert scheduler.num_preempted == 0


def test_a_step_is_planned_while_the_one_before_draws() -> None:
    scheduler = make()
    one = sequence(0, 6, max_tokens=3)
    scheduler.add(one)
    scheduler.schedule()
    scheduler.advance(one, 6)
    for position in (6, 7):
        assert scheduler.schedule().decodes == [one]
        scheduler.advance(one, position + 1)
        scheduler.check()
    assert scheduler.schedule() == Plan([], []), "the last token is being drawn"
    for token in (7, 8, 9):
        scheduler.append(one, token)
        scheduler.check()
    assert one.num_settled == 8


def resumed(number: int, length: int, num_emitted: int, max_tokens: int = 99, front: bytes = b"a") -> Sequence:
    """One whose stream flowed elsewhere."""
    return Sequence(WorkerJob(front, number, 2), [number] * length, [7] * num_emitted, Params(max_tokens))


def test_streams_that_stand_still_go_first_the_shortest_before() -> None:
    scheduler = make(num_blocks=40, max_num_seqs=6, max_batch_tokens=8)
    begun, fresh = added(scheduler, 20, 3)
    assert spans(run(scheduler)) == [(0, 0, 8)]
    for one in (resumed(2, 9, 4), resumed(3, 3, 2)):
        scheduler.add(one)
    assert spans(run(scheduler)) == [(3, 0, 5), (2, 0, 3)]
    assert spans(run(scheduler)) == [(2, 3, 10)]
    assert spans(run(scheduler)) == [(2, 10, 13), (0, 8, 12)], "then those that had begun before"
    assert fresh in scheduler.waiting
    while fresh in scheduler.waiting:
        assert run(scheduler).prefills
    assert begun.num_pending == 1


def test_one_that_has_no_room_holds_back_no_other_that_has_begun() -> None:
    scheduler = make(num_blocks=8, max_num_seqs=4, max_batch_tokens=4)
    added(scheduler, 20)
    run(scheduler)
    scheduler.add(resumed(1, 10, 4))
    assert spans(run(scheduler)) == [(0, 4, 8)]


def test_only_streams_that_stand_still_hurry() -> None:
    scheduler = make(num_blocks=40)
    told: list[bool] = []

    def budget(num_decodes: int, stalled: bool) -> int:
        told.append(stalled)
        return 4

    added(scheduler, 6)
    scheduler.schedule(prompt_budget=budget)
    scheduler.add(resumed(1, 4, 4, front=b"slow"))
    scheduler.schedule([b"slow"], prompt_budget=budget)
    scheduler.schedule(prompt_budget=budget)
    assert told == [False, False, True]


class Engine(RuleBasedStateMachine):
    """Any traffic over a pool that is too small for it, with steps that land at once and such that run ahead."""

    NUM_BLOCKS = 8
    SEQS = 3
    BUDGET = 6

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = make(self.NUM_BLOCKS, self.SEQS, self.BUDGET)
        self.alive: list[Sequence] = []
        self.emitted: dict[Sequence, int] = {}
        self.flight: list[Sequence] = []
        """Whose tokens are being drawn."""
        self.number = 0

    @rule(
        length=st.integers(1, 25),
        front=st.sampled_from([b"a", b"b"]),
        first=st.integers(0, 1),
        num_emitted=st.sampled_from([0, 0, 1, 5]),
    )
    def add(self, length: int, front: bytes, first: int, num_emitted: int) -> None:
        self.number += 1
        max_tokens = num_emitted + min(9, self.NUM_BLOCKS * BLOCK - length - num_emitted)
        ids, emitted = [first] * length, [7] * num_emitted
        one = Sequence(WorkerJob(front, self.number, 1), ids, emitted, Params(max_tokens))
        self.scheduler.add(one)
        self.alive.append(one)
        self.emitted[one] = num_emitted

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.drop(data.draw(st.sampled_from(self.alive)))

    @rule(
        fronts=st.sets(st.sampled_from([b"a", b"b"]), max_size=1),
        paused=st.integers(0, 9),
        ahead=st.booleans(),
        stops=st.booleans(),
        drafts=st.sampled_from([[], [7], [7, 7, 7, 7], [7, 8, 8]]),
        count=st.integers(1, 12),
        most=st.sampled_from([1, 3, 99]),
    )
    def steps(
        self, fronts: set[bytes], paused: int, ahead: bool, stops: bool, drafts: list[int], count: int, most: int
    ) -> None:
        held: Held = {*fronts, *(one.job for one in self.alive[paused : paused + 1])}
        for _ in range(count):
            self.step(held, ahead, drafts, most)
        if stops and self.flight and self.flight[0] in self.alive:
            self.drop(self.flight[0])  # its last token says that it ends, and the next one is being drawn already

    def step(self, held: Held, ahead: bool, drafts: list[int], most: int = 99) -> int:
        """As the engine does it, with `most` prompt tokens; returns how many tokens were planned or landed."""
        ready = [one for one in self.scheduler.running if one.num_pending == 1 and not is_held(one.job, held)]
        known = [one for one in self.scheduler.running if len(one.ids) == one.num_tokens]
        plan = self.scheduler.schedule(held, dict.fromkeys(known, drafts) if drafts else NO_DRAFTS, lambda *_: most)
        assert sum(end - start for _, start, end in plan.prefills) <= most
        decodes = plan.decodes + [one for one, _ in plan.guesses]
        planned = [*decodes, *(one for one, _, _ in plan.prefills)]
        assert len(planned) == len(set(planned))
        assert all(one in self.scheduler.running and not is_held(one.job, held) for one in planned)
        assert not any(one.blocks for one in self.alive if one.job in held)
        num_tokens = len(decodes) + sum(end - start for _, start, end in plan.prefills)
        assert num_tokens + sum(len(drafts) for _, drafts in plan.guesses) <= self.BUDGET
        for one in ready:
            last_is_drawn = one.num_drawn == one.params.max_tokens
            preempted = one in self.scheduler.waiting
            assert (one in decodes) + last_is_drawn + preempted >= 1, "only a preempted stream stalls"
        ahead = ahead and num_tokens > 0 and not plan.guesses
        num_landed = 0 if ahead else self.land()
        chunks = [(one, one.num_computed, one.num_computed + 1) for one in decodes] + list(plan.prefills)
        drawing = [one for one, start, end in chunks if one in self.alive and self.launch(one, start, end)]
        num_landed += self.land()
        self.flight = drawing
        if not ahead:
            num_landed += self.land()
            self.confirm(plan.guesses)
        return num_tokens + num_landed

    def confirm(self, guesses: list[Guess]) -> None:
        """Drafts of 7 are right."""
        for one, drafts in guesses:
            assert one.num_tokens + len(drafts) - 1 <= len(one.blocks) * BLOCK
            for draft in drafts:
                if draft == 7 and one in self.alive:
                    self.launch(one, one.num_computed, one.num_computed + 1)
                    self.flight = [one]
                    self.land()

    def launch(self, one: Sequence, start: int, end: int) -> bool:
        """Whether a token is drawn."""
        assert start == one.num_computed < end <= len(one.blocks) * BLOCK
        last = end == one.num_tokens
        self.scheduler.advance(one, end)
        return last

    def land(self) -> int:
        landed = [one for one in self.flight if one in self.alive]
        self.flight = []
        for one in landed:
            self.scheduler.append(one, 7)
            self.emitted[one] += 1
            if self.emitted[one] == one.params.max_tokens:
                self.drop(one)
        return len(landed)

    def drop(self, one: Sequence) -> None:
        self.scheduler.remove(one)
        self.alive.remove(one)

    @invariant()
    def holds(self) -> None:
        self.scheduler.check()
        assert {*self.scheduler.waiting, *self.scheduler.running} == set(self.alive)
        assert all(self.emitted[one] == one.num_emitted for one in self.alive)

    def teardown(self) -> None:
        """Whatever happened, all come to an end in a bounded number of steps."""
        bound = 2 + sum(len(one.ids) + one.params.max_tokens for one in self.alive) * 4
        while self.alive:
            assert self.step((), ahead=bool(bound % 2), drafts=[]) > 0, "work, but no step"
            bound -= 1
            assert bound
        assert self.scheduler.pool.num_free == self.NUM_BLOCKS


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=80, stateful_step_count=25)
