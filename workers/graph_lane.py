"""The graph lane: the paged lane, with steps that only decode replayed as CUDA graphs.

One graph for each bucket of batch sizes and width of block tables. Guesses are rows like any other: all rows of a layer
are written before any of them attends, each up to its own position. A replay takes its input tokens from the host or,
where the host does not know them yet, from the last draw on the device: so a step can be launched before the one
before it has landed. Must not know how tokens are drawn, nor when graphs are recorded (late.py).
"""

import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import NamedTuple

import torch

from tokenyard.broker.params import Params
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers.graphs import Graph, Recorder, Shape, buckets, in_pieces, smallest
from tokenyard.workers.lane import Guessed, Lane, Logits
from tokenyard.workers.model import LoadedModel
from tokenyard.workers.paged import PagedLane
from tokenyard.workers.rack import Masked, Rack
from tokenyard.workers.scheduler import Chunk, Plan, Sequence
from tokenyard.workers.selftest import tolerance
from tokenyard.workers.stage import POSITION, SHELF, TABLE, TOKEN, Row, Stage
from tokenyard.workers.static_step import DecodeKernel, StaticStep


class Trial(NamedTuple):
    """A sequence of one token more than a block, against which graphs are held."""

    sequence: Sequence
    num_placed: int
    """Of the rack, when it was computed."""
    expected: torch.Tensor  # [1, V]


class GraphLane(Lane):
    """Decodes by graphs, as far as they are recorded; all else by the paged lane."""

    def __init__(
        self,
        model: LoadedModel,
        paged: PagedLane,
        num_rows: int,
        widths: list[int],
        decode: DecodeKernel,
        recorder: Recorder,
        most_blocks: int = sys.maxsize,
    ) -> None:
        """`widths`: of block tables, ascending, the last for the longest sequence; more than one where width costs.

        `num_rows`: of the largest graph; `most_blocks`: larger tables have no graph.
        """
        device = model.device
        self._model = model
        self._paged = paged
        self._decode = decode
        self.buckets = buckets(num_rows)
        self._widths = widths
        self._most_blocks = most_blocks
        self._stage = Stage(num_rows, widths[-1], paged.pool.null_block, paged.pool.spill_block, device)
        self._drawn = torch.zeros(num_rows, dtype=torch.int64, device=device)
        """Tokens of the last draw."""
        self._row_of: dict[Sequence, int] = {}
        """Its row of each sequence."""
        self.logits = torch.zeros(num_rows, model.card.vocab_size, dtype=model.dtype, device=device)
        self.recorder = recorder
        """Others that are to share the graphs' memory need the same."""
        self._graphs: dict[Shape, Graph] = {}
        self._adapted: dict[Shape, Graph] = {}
        """The same with the adapters of all shelves, for batches in which any sequence has one."""
        self._trials: dict[Rack | None, Trial] = {}

    def recording(self) -> Iterator[None]:
        """Record all graphs, the largest first; each serves once it gives the paged lane's logits.

        Between two pieces others may step, if they read the logits of their last step before the next piece. Raises
        RuntimeError for a model that waits for the device, and for a graph that gives other logits.
        """
        for width in reversed(self._widths):
            for bucket in reversed(self.buckets):
                if bucket * width > self._most_blocks:
                    continue
                if rack := self._model.rack:
                    yield from self._record(self._adapted, bucket, width, rack)
                yield from self._record(self._graphs, bucket, width, None)

    def _record(self, graphs: dict[Shape, Graph], bucket: int, width: int, rack: Rack | None) -> Iterator[None]:
        # only rows of padding, lest the blocks of whoever came last are written again
        pad = partial(self._stage.send, [], bucket)
        graph = yield from in_pieces(self.recorder, partial(self._forward, bucket, width, rack), pad)
        error = self._error(graph, bucket, rack)
        if not error <= tolerance(self._model.model):  # NaN fails too
            raise RuntimeError(f"it gives other logits (by {error:.2g})")
        graphs[bucket, width] = graph
        yield

    def _error(self, graph: Graph, bucket: int, rack: Rack | None) -> float:
        """The largest difference from the paged lane's logits, as a share of the largest, with a trial in each row."""
        one, _, expected = self._trial(rack)
        row = Row(1, self._paged.pool.block_size, one.shelf, one.blocks)
        found = self._replay(graph, [row] * bucket, bucket)
        return float((found - expected).abs().max() / expected.abs().max())

    def _trial(self, rack: Rack | None) -> Trial:
        """Kept as long as the adapter that it is computed with, if it has one, lies where it lay."""
        shelf = rack.trial_shelf() if rack else 0
        num_placed = rack.num_placed if rack else 0
        known = self._trials.get(rack)
        if known is not None and known.num_placed == num_placed:
            return known
        size = self._paged.pool.block_size
        one = Sequence(WorkerJob(b"", 0, 1), list(range(1, size + 1)), [1], Params(max_tokens=2))
        one.shelf = shelf
        one.blocks.extend(self._paged.pool.trial_blocks[2 * bool(rack) :][:2])
        self._paged.run(Plan([], [Chunk(one, 0, size)]))
        one.num_computed = size
        self._trials[rack] = Trial(one, num_placed, self._paged.run(Plan([one], [])).rows)
        return self._trials[rack]

    @property
    def num_graphs(self) -> int:
        return len(self._graphs) + len(self._adapted)

    def scores_prompts(self) -> bool:
        return self._paged.scores_prompts()

    def most_drafts(self, num_decodes: int) -> int:
        return max(0, self.buckets[-1] - num_decodes)

    def runs_ahead(self, plan: Plan) -> bool:
        return not plan.guesses and self._find(plan) is not None

    def run(self, plan: Plan) -> Logits:
        found = self._find(plan)
        if found is None:
            return self._paged.run(plan)
        sampled = [*plan.decodes, *(guess.sequence for guess in plan.guesses)]
        words = [Row(self._token(one), one.num_computed, one.shelf, one.blocks) for one in sampled]
        for one, drafts in plan.guesses:
            words += [Row(*guess, one.shelf, one.blocks) for guess in zip(drafts, count(one.num_computed + 1))]
        rows = self._replay(found[0], words, found[1])
        later = torch.split(rows[len(sampled) :], [len(drafts) for _, drafts in plan.guesses])
        guessed = [Guessed(*guess, after) for guess, after in zip(plan.guesses, later, strict=True)]
        return Logits(sampled, rows[: len(sampled)], guessed)

    def drew(self, sequences: list[Sequence], tokens: torch.Tensor) -> None:
        self._drawn[: len(tokens)] = tokens
        self._row_of = {one: row for row, one in enumerate(sequences)}

    def forget(self, sequence: Sequence) -> None:
        self._paged.forget(sequence)

    def scrub(self, blocks: Iterable[int]) -> None:
        self._paged.scrub(blocks)

    def _find(self, plan: Plan) -> tuple[Graph, int] | None:
        """The graph for this plan, and its bucket; None where there is none."""
        sequences = [*plan.decodes, *(guess.sequence for guess in plan.guesses)]
        num_rows = len(sequences) + sum(len(drafts) for _, drafts in plan.guesses)
        if plan.prefills or not 0 < num_rows <= self.buckets[-1]:
            return None
        graphs = self._adapted if any(one.shelf for one in sequences) else self._graphs
        longest = max(len(one.blocks) for one in sequences)
        shape = smallest(graphs, self.buckets, num_rows, self._widths[bisect_left(self._widths, longest)])
        return (graphs[shape], shape[0]) if shape else None

    def _token(self, sequence: Sequence) -> int:
        """Word 0 of its row."""
        known = len(sequence.ids) == sequence.num_tokens
        return sequence.ids[-1] if known else -1 - self._row_of[sequence]

    def _replay(self, graph: Graph, rows: list[Row], bucket: int) -> torch.Tensor:
        """Logits [R, V] after each row, to be read before the next replay."""
        self._stage.send(rows, bucket)
        graph.replay()
        return self.logits[: len(rows)]

    def _forward(self, bucket: int, width: int, rack: Rack | None) -> None:
        """What a graph records: reads the first rows of the stage, writes the first rows of the logits."""
        words = self._stage.words[:bucket]
        tokens, positions = words[:, TOKEN].long(), words[:, POSITION].long()
        # a broken row drew no token (-1); its sequence has ended, and what is computed of it here is never read
        drawn = self._drawn[(-1 - tokens).clamp(min=0)].clamp(min=0)
        input_ids = torch.where(tokens < 0, drawn, tokens)
        step = StaticStep(self._paged.pool, words[:, TABLE : TABLE + width], positions, self._decode)
        rows = torch.arange(bucket, device=words.device)
        with rack.applied(Masked(words[:, SHELF], rack.num_shelves)) if rack else nullcontext():
            logits = self._model.forward(input_ids.unsqueeze(0), positions.unsqueeze(0), rows, step)
        self.logits[:bucket] = logits
