"""The paged lane: packs a plan into one forward of the model over the block pool."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from tokenyard.workers.attention import Probe
from tokenyard.workers.kernels import choose
from tokenyard.workers.lane import Guessed, Lane, Logits
from tokenyard.workers.model import LoadedModel
from tokenyard.workers.rack import adapted
from tokenyard.workers.scheduler import Chunk, Guess, Plan, Sequence
from tokenyard.workers.scoring import Head, PromptLogprobs, score_prompts, unscored
from tokenyard.workers.stage import to_device


class PagedLane(Lane):
    """Serves every model that passed the self-test on our attention."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self.kernels = choose(model.shapes, model.dtype, model.device)
        self.pool = self.kernels.make_pool(
            model.shapes, model.num_blocks, model.card.block_size, model.dtype, model.device
        )
        self._head = Head(model.model, step=Probe())

    def most_drafts(self, num_decodes: int) -> int:
        return sys.maxsize

    def scores_prompts(self) -> bool:
        return self._head.works

    def run(self, plan: Plan) -> Logits:
        if not any(end > start for _, start, end in map(unscored, plan.prefills)):
            return self._run(plan)
        with self._head.watching():
            logits = self._run(plan)
        return logits._replace(prompts=self._score(plan))

    def _score(self, plan: Plan) -> list[PromptLogprobs]:
        """Of the forward that has just run: decodes come first, then one chunk after another."""
        body = self._head.body()
        wanted, rows = [], []
        packed = len(plan.decodes)
        for chunk in plan.prefills:
            part = unscored(chunk)
            if part.end > part.start:
                wanted.append(part)
                rows.append(body.hidden[packed + part.start - chunk.start : packed + part.end - chunk.start])
            packed += chunk.end - chunk.start
        return score_prompts(self._head, wanted, rows, body)

    def _run(self, plan: Plan) -> Logits:
        with _drafted(plan.guesses) as chunks:
            batch = self.kernels.pack(Plan(plan.decodes, [*plan.prefills, *chunks]), self.pool, self._model.device)
        logit_rows = _guessed_rows(batch.logit_rows, plan.guesses) if chunks else batch.logit_rows
        runs = [(one.shelf, 1) for one in batch.decodes]
        runs += [(one.shelf, end - start) for one, start, end in [*plan.prefills, *chunks]]
        with adapted(self._model.rack, runs):
            rows = self._model.forward(batch.input_ids, batch.position_ids, logit_rows, batch.step)
        num_sampled = len(batch.sampled)
        later = torch.split(rows[num_sampled:], [len(drafts) for _, drafts in plan.guesses])
        guessed = [Guessed(*guess, after) for guess, after in zip(plan.guesses, later, strict=True)]
        return Logits(batch.sampled, rows[:num_sampled], guessed)

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept by sequence: the scheduler gives the blocks back."""

    def scrub(self, blocks: Iterable[int]) -> None:
        self.pool.scrub(blocks)


@contextmanager
def _drafted(guesses: list[Guess]) -> Iterator[list[Chunk]]:
    """Guesses as the chunks of prompts: their sequences end with the drafts for so long."""
    try:
        for sequence, drafts in guesses:
            sequence.ids.extend(drafts)
        yield [Chunk(sequence, sequence.num_computed, len(sequence.ids)) for sequence, _ in guesses]
    finally:
        for sequence, drafts in guesses:
            del sequence.ids[-len(drafts) :]


def _guessed_rows(last_rows: torch.Tensor, guesses: list[Guess]) -> torch.Tensor:
    """Where logits are wanted: [R] before all drafts, then after each draft.

    last_rows: [R], where they would be wanted if drafts were prompts; guesses come last.
    """
    num_others = len(last_rows) - len(guesses)
    indices, offsets = list(range(len(last_rows))), [0] * num_others
    offsets += [-len(drafts) for _, drafts in guesses]
    for index, (_, drafts) in enumerate(guesses, start=num_others):
        indices += [index] * len(drafts)
        offsets += range(1 - len(drafts), 1)
    placed = to_device([indices, offsets], torch.int64, last_rows.device)
    return last_rows[placed[0]] + placed[1]
