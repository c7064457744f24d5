"""The graph lane: the paged lane, with steps that only decode replayed as CUDA graphs.

One graph for each bucket of batch sizes and width of block tables. Guesses are rows like any other: all rows of a layer
are written before any of them attends, each up to its own position. A replay takes its input tokens from the host or,
where the host does not know them yet, from the last draw on the device: so a step can be launched before the one
before it has landed. Must not know how tokens are drawn.
"""

import sys
from bisect import bisect_left
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from itertools import count

import torch

from tokenyard.broker.params import Params
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers.graphs import Graph, Recorder, buckets
from tokenyard.workers.lane import Guessed, Lane, Logits
from tokenyard.workers.model import LoadedModel
from tokenyard.workers.paged import PagedLane
from tokenyard.workers.rack import Masked, Rack
from tokenyard.workers.scheduler import Chunk, Plan, Sequence
from tokenyard.workers.stage import POSITION, SHELF, TABLE, TOKEN, Row, Stage
from tokenyard.workers.static_step import DecodeKernel, StaticStep


class GraphLane(Lane):
    """Decodes by graphs, all else by the paged lane."""

    def __init__(
        self,
        model: LoadedModel,
        paged: PagedLane,
        num_rows: int,
        widths: list[int],
        decode: DecodeKernel,
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
        self.recorder: Recorder | None = None
        """What recorded the graphs: others that are to share their memory need the same."""
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._adapted: dict[tuple[int, int], Graph] = {}
        """The same with the adapters of all shelves, for batches in which any sequence has one."""

    @torch.inference_mode()
    def record(self, recorder: Recorder) -> None:
        """Record all graphs, the largest first. Raises RuntimeError for a model that waits for the device."""
        self.recorder = recorder
        for width in reversed(self._widths):
            for bucket in reversed(self.buckets):
                if bucket * width > self._most_blocks:
                    continue
                if rack := self._model.rack:
                    self._adapted[bucket, width] = recorder(partial(self._forward, bucket, width, rack))
                self._graphs[bucket, width] = recorder(partial(self._forward, bucket, width, None))

    @torch.inference_mode()
    def selftest(self) -> float:
        """The largest difference of any graph's logits from the paged lane's, as a share of the largest logit."""
        size = self._paged.pool.block_size
        one = Sequence(WorkerJob(b"", 0, 1), list(range(1, size + 1)), [1], Params(max_tokens=2))
        one.blocks.extend((0, 1))
        errors = self._errors(one, self._graphs)
        if rack := self._model.rack:
            one.shelf = rack.num_shelves
            rack.fill(one.shelf)
            errors += self._errors(one, self._adapted)
            rack.place(one.shelf, {})
        self._paged.scrub(one.blocks)
        return torch.stack(errors).max().item()

    def _errors(self, one: Sequence, graphs: dict[tuple[int, int], Graph]) -> list[torch.Tensor]:
        """Of each graph, with this sequence of one token more than a block as every row."""
        size = self._paged.pool.block_size
        one.num_computed = 0
        self._paged.run(Plan([], [Chunk(one, 0, size)]))
        one.num_computed = size
        expected = self._paged.run(Plan([one], [])).rows
        errors = []
        for (bucket, _), graph in graphs.items():
            found = self._replay(graph, [Row(1, size, one.shelf, one.blocks)] * bucket, bucket)
            errors.append((found - expected).abs().max() / expected.abs().max())
        return errors

    @property
    def num_graphs(self) -> int:
        return len(self._graphs) + len(self._adapted)

    def scores_prompts(self) -> bool:
        return self._paged.scores_prompts()

    def most_drafts(self, num_decodes: int) -> int:
        return max(0, self.buckets[-1] - num_decodes)

    def runs_ahead(self, plan: Plan) -> bool:
        return not plan.guesses and self._shape(plan) in self._graphs

    def run(self, plan: Plan) -> Logits:
        shape = self._shape(plan)
        if shape not in self._graphs:
            return self._paged.run(plan)
        sampled = [*plan.decodes, *(guess.sequence for guess in plan.guesses)]
        words = [Row(self._token(one), one.num_computed, one.shelf, one.blocks) for one in sampled]
        for one, drafts in plan.guesses:
            words += [Row(*guess, one.shelf, one.blocks) for guess in zip(drafts, count(one.num_computed + 1))]
        graphs = self._adapted if any(one.shelf for one in sampled) else self._graphs
        rows = self._replay(graphs[shape], words, shape[0])
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

    def _shape(self, plan: Plan) -> tuple[int, int]:
        """Bucket and width that a plan needs; (0, 0) where it is none for graphs."""
        sequences = [*plan.decodes, *(guess.sequence for guess in plan.guesses)]
        num_rows = len(sequences) + sum(len(drafts) for _, drafts in plan.guesses)
        if plan.prefills or not 0 < num_rows <= self.buckets[-1]:
            return 0, 0
        longest = max(len(one.blocks) for one in sequences)
        bucket = self.buckets[bisect_left(self.buckets, num_rows)]
        return bucket, self._widths[bisect_left(self._widths, longest)]

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
