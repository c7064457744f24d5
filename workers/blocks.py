"""The block pool: who holds which KV block, and which unreferenced blocks still hold a known prefix.

Decides only; the tensors behind the block numbers live in kv.py. Must not know of sequences, steps, torch or time.

A block is in exactly one state:
  blank       nobody holds it, its content is void
  held        one or more block tables hold it; it may be published under a prefix key
  cached      nobody holds it, but it is published: the next prompt with that prefix may take it; evicted oldest first
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Reference counts and prefix index of `num_blocks` equal KV blocks."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._holders = [0] * num_blocks
        """Block tables that hold each block."""
        self._key_of: list[bytes | None] = [None] * num_blocks
        """The prefix key under which each block is published."""
        self._published: dict[bytes, int] = {}
        self._blank = list(range(num_blocks - 1, -1, -1))
        """A stack: the next block is at its end, so that a fresh pool hands out neighbours."""
        self._cached: OrderedDict[int, None] = OrderedDict()
        """Oldest first."""

    @property
    def num_free(self) -> int:
        """Blocks that allocate() can hand out: blank and cached ones."""
        return len(self._blank) + len(self._cached)

    def match(self, keys: Iterable[bytes]) -> list[int]:
        """The published blocks of the longest prefix of `keys`."""
        blocks = []
        for key in keys:
            block = self._published.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_cached(self, blocks: Sequence[int]) -> int:
        """How many of these nobody holds: taking them lowers num_free by so many."""
        return sum(not self._holders[block] for block in blocks)

    def take(self, blocks: Sequence[int]) -> None:
        """Share published blocks: one more table holds each."""
        for block in blocks:
            assert self._key_of[block] is not None
            self._cached.pop(block, None)
            self._holders[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Hand out `count` blocks with void content, evicting cached ones only when no blank is left."""
        assert count <= self.num_free
        blocks = []
        for _ in range(count):
            block = self._blank.pop() if self._blank else self._evict()
            self._holders[block] = 1
            blocks.append(block)
        return blocks

    def publish(self, block: int, key: bytes) -> None:
        """Tell that a held block is full and computed, and what prefix it ends; the first block under a key stays."""
        assert self._holders[block] > 0
        if self._key_of[block] is None and key not in self._published:
            self._key_of[block] = key
            self._published[key] = block

    def unpublish(self, blocks: Sequence[int]) -> list[int]:
        """Withdraw those of a table's blocks that no other table holds, and return them: their content is bad."""
        own = [block for block in blocks if self._holders[block] == 1]
        for block in own:
            self._withdraw(block)
        return own

    def release(self, blocks: Sequence[int]) -> None:
        """One table lets go of these, from its last to its first, so that the ends of prefixes are evicted first."""
        for block in reversed(blocks):
            assert self._holders[block] > 0
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if self._key_of[block] is None:
                self._blank.append(block)
            else:
                self._cached[block] = None

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        self._withdraw(block)
        return block

    def _withdraw(self, block: int) -> None:
        key = self._key_of[block]
        if key is not None:
            del self._published[key]
            self._key_of[block] = None

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that the pool agrees with all block tables there are."""
        holders = Counter(block for table in tables for block in table)
        assert self._holders == [holders[block] for block in range(self.num_blocks)]
        blank = set(self._blank)
        assert len(self._blank) == len(blank)
        for block in range(self.num_blocks):
            key = self._key_of[block]
            assert key is None or self._published[key] == block
            states = (block in self._cached, self._holders[block] > 0, block in blank)
            assert sum(states) == 1, f"block {block} is (cached, held, blank) {states}"
            assert not states[2] or key is None
            assert not states[0] or key is not None
        assert len(self._published) == sum(key is not None for key in self._key_of)
