"""The block pool: a block has one state, shared blocks stay, cached ones are evicted oldest first."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tokenyard.workers.blocks import BlockPool

NUM_BLOCKS = 6


def key(number: int) -> bytes:
    return b"key-%d" % number


def test_a_fresh_pool_hands_out_neighbours() -> None:
    assert BlockPool(4).allocate(3) == [0, 1, 2]


def test_published_blocks_outlive_their_holder() -> None:
    pool = BlockPool(4)
    table = pool.allocate(2)
    pool.publish(table[0], key(0))
    pool.release(table)
    assert pool.num_free == 4
    assert pool.match([key(0), key(1)]) == [table[0]]
    assert pool.match([key(1), key(0)]) == [], "a prefix has no holes"
    pool.take([table[0]])
    assert pool.num_free == 3
    pool.check([[table[0]]])


def test_blank_blocks_go_before_cached_and_old_before_new() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(1), pool.allocate(2)
    for number, block in enumerate(first + second):
        pool.publish(block, key(number))
    pool.release(first)
    pool.release(second)
    assert pool.allocate(1) == [3], "never held"
    assert pool.allocate(1) == first
    assert pool.allocate(1) == second[1:], "of one table, the end of the prefix goes first"
    assert pool.match([key(1), key(2)]) == second[:1]


def test_the_first_block_under_a_key_stays() -> None:
    pool = BlockPool(4)
    one, two = pool.allocate(2)
    pool.publish(one, key(0))
    pool.publish(two, key(0))
    assert pool.match([key(0)]) == [one]
    pool.release([two])
    assert pool.allocate(1) == [two], "an unpublished block is blank when it is released"


def test_unpublish_spares_what_others_hold() -> None:
    pool = BlockPool(4)
    table = pool.allocate(2)
    for number, block in enumerate(table):
        pool.publish(block, key(number))
    pool.take(table[:1])
    assert pool.unpublish(table) == table[1:]
    assert pool.match([key(0), key(1)]) == table[:1]


class Tables(RuleBasedStateMachine):
    """Block tables come, share, publish and go in any order; the model here is a list of tables and what each holds."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.tables: list[list[int]] = []
        self.content: dict[int, bytes] = {}
        """What each published block holds; writing to such a block would be the bug that matters most."""

    @precondition(lambda self: self.pool.num_free > 0)
    @rule(data=st.data())
    def allocate(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, self.pool.num_free))
        held = {block for table in self.tables for block in table}
        table = self.pool.allocate(count)
        assert len(set(table)) == count
        assert not held & set(table)
        for block in table:
            self.content.pop(block, None)
        self.tables.append(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), number=st.integers(0, 8))
    def publish(self, data: st.DataObject, number: int) -> None:
        block = data.draw(st.sampled_from(data.draw(st.sampled_from(self.tables))))
        self.pool.publish(block, key(number))
        if self.pool.match([key(number)]) == [block]:
            self.content[block] = key(number)

    @rule(numbers=st.lists(st.integers(0, 8), max_size=3))
    def share(self, numbers: list[int]) -> None:
        hits = self.pool.match([key(number) for number in numbers])
        for number, block in zip(numbers, hits, strict=False):
            assert self.content[block] == key(number)
        if len(set(hits)) == len(hits) and hits:
            free = self.pool.num_free
            cached = self.pool.num_cached(hits)
            self.pool.take(hits)
            assert self.pool.num_free == free - cached
            self.tables.append(hits)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.release(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def unpublish(self, data: st.DataObject) -> None:
        for block in self.pool.unpublish(data.draw(st.sampled_from(self.tables))):
            self.content.pop(block, None)

    @invariant()
    def agrees(self) -> None:
        self.pool.check(self.tables)
        held = {block for table in self.tables for block in table}
        assert self.pool.num_free == NUM_BLOCKS - len(held)


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=60, stateful_step_count=30)
