"""Which sequences run in the next step, and with how many tokens.

Decides only: no torch, no time, no sockets; it does not know what a token means. One `schedule()` makes the plan of one
step, the engine runs it, and `advance()` and `append()` tell what came of it.

Rules, in order:
  1. Every running sequence with one token left to compute (a decode) runs in every step: nothing stalls a stream.
  2. What the token budget leaves goes to prompts, oldest first: those begun, then waiting ones; several share a step,
     and a long one takes several steps. The caller may allow them less beside so many decodes (pace.py).
  3. A waiting sequence is admitted when all its tokens fit in free blocks, with one spare for each running sequence.
     One whose next prefix block is just being computed by another waits for it: n choices of a prompt cost one prefill.
  4. A decode that finds no free block takes it from the running sequence that arrived last, which waits again with its
     tokens kept and is computed anew ("preempted"). The oldest sequence always moves on, so the queue always ends.
  5. Guesses come last: they get what is left of the budget and of the free blocks.
  6. A step may be planned while the tokens of the step before it are still being drawn: a token counts from advance()
     on, its id comes with append(). What needs ids (prefix keys, admission) waits for them; the device runs steps in
     order, so blocks change hands at once.
"""

from array import array
from bisect import insort
from collections.abc import Callable, Collection, Iterator, Mapping
from math import inf
from types import MappingProxyType
from typing import NamedTuple

from tokenyard.broker.params import Params
from tokenyard.broker.prefix import next_key, salted
from tokenyard.broker.wire import PLAIN, AdapterKey, WorkerJob
from tokenyard.workers.blocks import BlockPool

Held = Collection[bytes | WorkerJob]
"""Whose sequences do not run: those of fronts that do not keep up, and single ones whose clients do not."""


def is_held(job: WorkerJob, held: Held) -> bool:
    return job.front in held or job in held


class Sequence:
    """One job in the engine: its tokens, how far they are computed, and the blocks that hold them."""

    __slots__ = (
        "adapter",
        "announced",
        "arrival",
        "blocks",
        "follows_text",
        "hit_tokens",
        "ids",
        "job",
        "keys",
        "num_computed",
        "num_prompt",
        "num_scored",
        "num_tokens",
        "params",
        "root_key",
        "shelf",
    )

    def __init__(
        self,
        job: WorkerJob,
        prompt_ids: list[int],
        emitted_ids: list[int],
        params: Params,
        adapter: AdapterKey = PLAIN,
    ) -> None:
        self.job = job
        self.params = params
        self.adapter = adapter
        self.shelf = 0
        """Where its adapter lies (rack.py); 0: it has none."""
        self.root_key: bytes | None = None
        """Of its prefix keys; None: the scheduler's."""
        self.follows_text = params.grammar is not None or (
            params.processors is not None and params.processors.follows_text
        )
        """Whether what may be drawn depends on the tokens just before, so that a draw waits until they are known."""
        self.ids = array("I", prompt_ids)
        """Prompt, then emitted tokens; u32, as prefix keys are made of."""
        self.ids.extend(emitted_ids)
        self.num_prompt = len(prompt_ids)
        self.num_tokens = len(self.ids)
        """Of `ids`, and those after them that are being drawn."""
        self.num_computed = 0
        """Positions [0, num_computed) have their keys and values in the pool, or will when the device gets there."""
        self.blocks = array("q")
        """The block table; empty while waiting."""
        self.keys: list[bytes] = []
        """Prefix keys of its first full blocks."""
        self.hit_tokens = -1
        """Tokens found cached at the first admission; -1 before it."""
        self.announced = False
        """Whether an output has told that it is running."""
        self.arrival = 0
        """Order of arrival, given by the scheduler."""
        self.num_scored = self.num_prompt - 1 if params.prompt_logprobs < 0 or emitted_ids else 0
        """At positions [0, num_scored) no logits are wanted any more for the prompt tokens that follow them."""

    @property
    def num_emitted(self) -> int:
        return len(self.ids) - self.num_prompt

    @property
    def num_drawn(self) -> int:
        """Emitted tokens and those being drawn: the emitted index of the one that comes after them."""
        return self.num_tokens - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens not computed yet; 1 is a decode."""
        return self.num_tokens - self.num_computed

    @property
    def num_reusable(self) -> int:
        """Positions [0, num_reusable) give no logits that are wanted, so that others may have computed them."""
        return self.num_scored if self.num_scored < self.num_prompt - 1 else len(self.ids) - 1

    @property
    def num_settled(self) -> int:
        """Positions [0, num_settled) are computed, and their ids are known."""
        return min(self.num_computed, len(self.ids))


class Chunk(NamedTuple):
    """Positions [start, end) of a sequence are computed in this step; the token after is sampled if end is its end."""

    sequence: Sequence
    start: int
    end: int


class Guess(NamedTuple):
    """A decode that computes guessed tokens, too, at the positions after its own; there are blocks for all of them."""

    sequence: Sequence
    drafts: list[int]


class Plan(NamedTuple):
    """One step. Decodes have one token each, at position num_computed, and all of them are sampled."""

    decodes: list[Sequence]
    prefills: list[Chunk]
    guesses: list[Guess] = []
    """Other sequences than the decodes; sampled as they are, and again after each draft that was right."""


def _by_arrival(sequence: Sequence) -> int:
    return sequence.arrival


NO_DRAFTS: Mapping[Sequence, list[int]] = MappingProxyType({})


class Scheduler:
    """The waiting and running sequences of one engine over one block pool."""

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        max_num_seqs: int,
        max_batch_tokens: int,
        root_key: bytes,
        *,
        reuse_prefixes: bool = True,
        whole_prompts: bool = False,
    ) -> None:
        assert max_batch_tokens >= max_num_seqs > 0, "all decodes must fit in one step"
        self.pool = pool
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.max_batch_tokens = max_batch_tokens
        self.root_key = root_key
        self.reuse_prefixes = reuse_prefixes
        """Off where the lane keeps nothing in blocks: they are a budget then."""
        self.whole_prompts = whole_prompts
        """A prompt is never cut in chunks, even if it alone is more than the budget."""
        self.waiting: list[Sequence] = []
        """In order of arrival; a preempted sequence is back in its old place."""
        self.running: list[Sequence] = []
        """In order of arrival."""
        self.num_arrived = 0
        self.num_preempted = 0
        self.queried_tokens = 0
        self.hit_tokens = 0
        """Tokens of all admissions, and those that were found cached instead of computed."""

    def add(self, sequence: Sequence) -> None:
        """Take a sequence in; it must fit in the pool when it is alone."""
        assert self._num_blocks(len(sequence.ids)) <= self.pool.num_blocks
        sequence.arrival = self.num_arrived
        self.num_arrived += 1
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that is done or not wanted; its full blocks stay cached."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._free(sequence)
        else:
            self.waiting.remove(sequence)

    def schedule(
        self,
        held: Held = (),
        drafts: Mapping[Sequence, list[int]] = NO_DRAFTS,
        prompt_budget: Callable[[int, bool], int] | None = None,
    ) -> Plan:
        """Plan one step without those in `held`: sequences of a front keep their blocks, single ones give theirs up.

        `prompt_budget`: how many prompt tokens, at least one, may go with so many decodes, and whether a stream stands
        still until its tokens are computed anew; None: all that fit.
        """
        for sequence in [one for one in self.running if one.job in held] if held else ():
            self._set_aside(sequence)
        decodes: list[Sequence] = []
        place = 0
        while place < len(self.running):  # _grow takes victims from the end
            sequence = self.running[place]
            place += 1
            if self._may_decode(sequence, held) and self._grow(sequence):
                decodes.append(sequence)
        budget = self.max_batch_tokens - len(decodes)
        begun = [one for one in self.running if one.num_pending > 1 and not is_held(one.job, held)]
        stalled = any(one.num_emitted for one in (*begun, *self.waiting) if not is_held(one.job, held))
        allowed = budget if prompt_budget is None else min(budget, prompt_budget(len(decodes), stalled))
        prefills: list[Chunk] = []
        for sequence in self._prompts(begun, held):
            count = sequence.num_pending if self.whole_prompts else min(sequence.num_pending, allowed)
            if sequence.num_pending == 1:
                decodes.append(sequence)
            else:
                prefills.append(Chunk(sequence, sequence.num_computed, sequence.num_computed + count))
            budget -= count
            allowed -= count
            if allowed <= 0:
                break
        guesses = []
        for sequence in decodes if drafts else ():
            if count := min(len(drafts.get(sequence, ())), budget, self._room_for_drafts(sequence)):
                self._extend(sequence, sequence.num_tokens + count)
                guesses.append(Guess(sequence, drafts[sequence][:count]))
                budget -= count
        guessing = {guess.sequence for guess in guesses}
        return Plan([one for one in decodes if one not in guessing] if guessing else decodes, prefills, guesses)

    def advance(self, sequence: Sequence, end: int) -> None:
        """Positions up to `end` are computed, or launched; if that is all of them, the next token is being drawn."""
        before = sequence.num_settled
        sequence.num_computed = end
        sequence.num_scored = max(sequence.num_scored, min(end, sequence.num_prompt - 1))
        if end == sequence.num_tokens:
            sequence.num_tokens += 1
        self._publish(sequence, before)

    def append(self, sequence: Sequence, token: int) -> None:
        """The oldest token that was being drawn is known, and emitted."""
        before = sequence.num_settled
        sequence.ids.append(token)
        assert len(sequence.ids) <= sequence.num_tokens
        self._publish(sequence, before)

    def disown(self, sequence: Sequence) -> list[int]:
        """Unpublish the blocks that only this sequence holds, as their content is bad, and return them."""
        return self.pool.unpublish(sequence.blocks)

    def _may_decode(self, sequence: Sequence, held: Held) -> bool:
        """Whether one token is left to compute, and to emit after it: the last one may be being drawn already.

        A sequence that emits none needs the logits after its prompt all the same.
        """
        unfinished = sequence.num_drawn < max(1, sequence.params.max_tokens)
        return sequence.num_pending == 1 and unfinished and not is_held(sequence.job, held)

    def _publish(self, sequence: Sequence, before: int) -> None:
        """Offer the blocks that became full since num_settled was `before` to other sequences."""
        if not self.reuse_prefixes:
            return
        for index in range(before // self.block_size, sequence.num_settled // self.block_size):
            self.pool.publish(sequence.blocks[index], self._key(sequence, index))

    def _prompts(self, begun: list[Sequence], held: Held) -> Iterator[Sequence]:
        """Sequences to prefill: those begun, then waiting ones, admitted as they are asked for.

        Streams that stand still, resumed or preempted, go before those that have not begun to flow, the shortest first:
        the more of them flow again early.
        """
        if not self.waiting:
            yield from begun
            return
        coming = {key for one in begun for key in self._coming_keys(one)}
        is_full = False
        order = [*begun, *(one for one in self.waiting if not is_held(one.job, held))]
        order.sort(key=lambda one: one.num_pending if one.num_emitted else inf)
        for sequence in order:
            if not sequence.blocks:
                if is_full or len(self.running) == self.max_num_seqs or len(sequence.ids) < sequence.num_tokens:
                    is_full = True
                    continue
                num_reusable = sequence.num_reusable // self.block_size if self.reuse_prefixes else 0
                hits = self.pool.match(self._key(sequence, index) for index in range(num_reusable))
                if len(hits) < num_reusable and self._key(sequence, len(hits)) in coming:
                    continue
                if not self._admit(sequence, hits):
                    is_full = True
                    continue
                coming.update(self._coming_keys(sequence))
            yield sequence

    def _coming_keys(self, sequence: Sequence) -> Iterator[bytes]:
        """Keys of the blocks that a running sequence is about to publish."""
        first = sequence.num_computed // self.block_size
        return (self._key(sequence, index) for index in range(first, len(sequence.ids) // self.block_size))

    def _admit(self, sequence: Sequence, hits: list[int]) -> bool:
        """Move a waiting sequence to the running ones, with blocks for all its tokens, unless they do not fit."""
        num_blocks = self._num_blocks(len(sequence.ids))
        spare = len(self.running)
        if num_blocks - len(hits) + self.pool.num_cached(hits) + spare > self.pool.num_free:
            return False
        self.pool.take(hits)
        sequence.blocks.extend(hits)
        sequence.blocks.extend(self.pool.allocate(num_blocks - len(hits)))
        sequence.num_computed = len(hits) * self.block_size
        self.queried_tokens += len(sequence.ids)
        self.hit_tokens += sequence.num_computed
        if sequence.hit_tokens < 0:
            sequence.hit_tokens = sequence.num_computed
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_by_arrival)
        return True

    def _grow(self, sequence: Sequence) -> bool:
        """Give a decode the block that its next position needs; False if it had to be preempted itself."""
        while self._num_blocks(sequence.num_tokens) > len(sequence.blocks):
            if self.pool.num_free:
                sequence.blocks.extend(self.pool.allocate(1))
                continue
            victim = self.running[-1]
            self._set_aside(victim)
            self.num_preempted += 1
            if victim is sequence:
                return False
        return True

    def _set_aside(self, sequence: Sequence) -> None:
        """Have a running sequence wait again, in its old place; its full blocks stay cached until they are taken."""
        self.running.remove(sequence)
        self._free(sequence)
        insort(self.waiting, sequence, key=_by_arrival)

    def _room_for_drafts(self, sequence: Sequence) -> int:
        """How many more tokens it could compute now and still emit one after them, taking blocks from nobody."""
        num_slots = (len(sequence.blocks) + self.pool.num_free) * self.block_size
        return max(0, min(num_slots - sequence.num_tokens, sequence.params.max_tokens - sequence.num_drawn - 1))

    def _extend(self, sequence: Sequence, num_tokens: int) -> None:
        """Give it free blocks for so many tokens."""
        sequence.blocks.extend(self.pool.allocate(max(0, self._num_blocks(num_tokens) - len(sequence.blocks))))

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = array("q")
        sequence.num_computed = 0

    def _key(self, sequence: Sequence, index: int) -> bytes:
        """The prefix key of a full block; computed once, in order."""
        keys = sequence.keys
        while len(keys) <= index:
            start = len(keys) * self.block_size
            ids = sequence.ids[start : start + self.block_size]
            previous = keys[-1] if keys else salted(sequence.root_key or self.root_key, sequence.params.cache_salt)
            keys.append(next_key(previous, ids.tobytes()))
        return keys[index]

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def check(self) -> None:
        """Assert what must hold between steps."""
        self.pool.check([sequence.blocks for sequence in self.running])
        assert len(self.running) <= self.max_num_seqs
        for queue in (self.waiting, self.running):
            assert [one.arrival for one in queue] == sorted({one.arrival for one in queue})
        assert not set(self.waiting) & set(self.running)
        for one in self.waiting:
            assert not one.blocks
            assert one.num_computed == 0
            assert len(one.ids) <= one.num_tokens
        for one in self.running:
            assert 0 <= one.num_computed < one.num_tokens
            assert one.num_computed <= len(one.blocks) * self.block_size
            assert len(one.blocks) <= self._num_blocks(one.num_prompt + one.params.max_tokens)
            assert len(one.keys) <= len(one.ids) // self.block_size
