"""Paged attention against one plain softmax over the whole sequence, in float32, for every flavour and table shape."""

from operator import itemgetter

import pytest
import torch

from tokenyard.broker.params import Params
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers.attention import Flavour
from tokenyard.workers.batch import GROUP_BYTES, Batch, pack
from tokenyard.workers.kv import KVPool, LayerShape
from tokenyard.workers.scheduler import Chunk, Plan, Sequence

BLOCK = 4
NUM_BLOCKS = 64
KEY_DIM, VALUE_DIM = 8, 6
LENGTHS = (7, 16, 21, 30)
SCALING = 0.4


def reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, flavour: Flavour) -> torch.Tensor:
    """query: [H, L, D], key and value: [H_kv, L, D or D_v], of one whole sequence; result: [L, H, D_v]."""
    group = len(query) // len(key)
    scores = query @ key.repeat_interleave(group, 0).transpose(1, 2) * flavour.scaling
    if flavour.softcap:
        scores = flavour.softcap * torch.tanh(scores / flavour.softcap)
    length = query.shape[1]
    distance = torch.arange(length).view(-1, 1) - torch.arange(length)
    scores[:, (distance < 0) | (distance >= (flavour.window or length))] = -torch.inf
    if flavour.sinks is not None:
        scores = torch.cat([scores, flavour.sinks.view(-1, 1, 1).expand(-1, length, 1)], dim=-1)
    weights = scores.softmax(dim=-1)[..., :length]
    return (weights @ value.repeat_interleave(group, 0)).transpose(0, 1)


class Case:
    """Some sequences with random queries, keys and values, and the pool that they share."""

    def __init__(self, num_heads: int, num_kv_heads: int, scattered: bool) -> None:
        torch.manual_seed(num_heads)
        self.pool = KVPool(
            [LayerShape(num_kv_heads, KEY_DIM, VALUE_DIM)], NUM_BLOCKS, BLOCK, torch.float32, torch.device("cpu")
        )
        order = torch.randperm(NUM_BLOCKS).tolist() if scattered else list(range(NUM_BLOCKS))
        self.sequences = []
        for number, length in enumerate(LENGTHS):
            sequence = Sequence(WorkerJob(b"", number, 1), [0] * length, [], Params(max_tokens=1))
            sequence.blocks.extend(order.pop(0) for _ in range(-(-length // BLOCK)))
            self.sequences.append(sequence)
        self.query = [torch.randn(num_heads, length, KEY_DIM) for length in LENGTHS]
        self.key = [torch.randn(num_kv_heads, length, KEY_DIM) for length in LENGTHS]
        self.value = [torch.randn(num_kv_heads, length, VALUE_DIM) for length in LENGTHS]

    def run(self, plan: Plan, flavour: Flavour) -> None:
        """One step; each of its tokens must get what it gets in the whole sequence."""
        batch = pack(plan, self.pool, torch.device("cpu"))
        rows = self.rows(plan, batch)

        def packed(tensors: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack([tensors[number][:, at] for number, at in rows], dim=1).unsqueeze(0)

        output = batch.step.attend(0, packed(self.query), packed(self.key), packed(self.value), flavour)
        assert output.shape == (1, len(rows), len(self.query[0]), VALUE_DIM)
        wanted = [reference(*one, flavour) for one in zip(self.query, self.key, self.value, strict=True)]
        torch.testing.assert_close(output[0], torch.stack([wanted[number][at] for number, at in rows]))

    def rows(self, plan: Plan, batch: Batch) -> list[tuple[int, int]]:
        """(sequence, position) of each packed token."""
        packed = zip(batch.logit_rows.tolist(), batch.sampled, strict=True)
        numbers = [one.job.job for row, one in sorted(packed, key=itemgetter(0)) if row < len(plan.decodes)]
        for sequence, start, end in plan.prefills:
            numbers += [sequence.job.job] * (end - start)
        return list(zip(numbers, batch.position_ids[0].tolist(), strict=True))

    def chunks(self, start: int, end: int | None) -> list[Chunk]:
        """The tokens [start:end] of each sequence."""
        owns = [range(len(one.ids))[start:end] for one in self.sequences]
        return [Chunk(one, own.start, own.stop) for one, own in zip(self.sequences, owns, strict=True)]


FLAVOURS = {
    "plain": {},
    "window": {"window": 5},
    "window of a block": {"window": BLOCK},
    "wide window": {"window": 100},
    "softcap": {"softcap": 2.0},
    "sinks": {"sinks": True},
    "all": {"window": 6, "softcap": 1.5, "sinks": True},
}


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(2, 2), (6, 2)])
@pytest.mark.parametrize("name", FLAVOURS)
def test_every_path_gives_the_plain_softmax(name: str, num_heads: int, num_kv_heads: int, scattered: bool) -> None:
    chosen = dict(FLAVOURS[name])
    sinks = torch.linspace(-1, 2, num_heads) if chosen.pop("sinks", False) else None
    flavour = Flavour(SCALING, chosen.get("window"), chosen.get("softcap"), sinks)
    case = Case(num_heads, num_kv_heads, scattered)
    case.run(Plan([], case.chunks(0, 5)), flavour)  # several prompts in one step
    case.run(Plan([], case.chunks(5, -1)), flavour)  # chunks that follow cached tokens
    for one in case.sequences:
        one.num_computed = len(one.ids) - 1
    case.run(Plan(case.sequences[::-1], []), flavour)  # all decodes as a group
    case.run(Plan(case.sequences[2:3], []), flavour)  # one decode alone
    case.run(Plan(case.sequences[:2], [Chunk(case.sequences[3], 20, 29)]), flavour)  # both kinds beside each other


def test_small_groups_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GROUP_BYTES, "cpu", 12 * BLOCK * 2 * (KEY_DIM + VALUE_DIM) * 4)
    case = Case(2, 2, scattered=True)
    flavour = Flavour(SCALING, None, None, None)
    case.run(Plan([], case.chunks(0, None)), flavour)
    for one in case.sequences:
        one.num_computed = len(one.ids) - 1
    case.run(Plan(case.sequences, []), flavour)


@pytest.mark.parametrize("scattered", [False, True])
def test_blocks_of_others_do_not_matter(scattered: bool) -> None:
    case = Case(2, 2, scattered)
    flavour = Flavour(SCALING, None, None, None)
    case.run(Plan([], case.chunks(0, None)), flavour)
    held = {block for one in case.sequences[1:] for block in one.blocks}
    case.sequences = case.sequences[1:]
    for block in set(range(NUM_BLOCKS)) - held:
        for pool in (*case.pool._keys, *case.pool._values):
            pool[block * BLOCK : (block + 1) * BLOCK] = torch.nan
    for one in case.sequences:
        one.num_computed = len(one.ids) - 1
    case.run(Plan(case.sequences, []), flavour)
    for one in case.sequences:
        case.run(Plan([one], []), flavour)


def test_scrubbed_blocks_are_zero() -> None:
    case = Case(2, 2, scattered=False)
    case.run(Plan([], case.chunks(0, None)), Flavour(SCALING, None, None, None))
    before = [pool.clone() for pool in (*case.pool._keys, *case.pool._values)]
    case.pool.scrub([1, 3])
    for pool, old in zip((*case.pool._keys, *case.pool._values), before, strict=True):
        for block in range(NUM_BLOCKS):
            own = slice(block * BLOCK, (block + 1) * BLOCK)
            assert torch.equal(pool[own], torch.zeros_like(pool[own]) if block in (1, 3) else old[own])
