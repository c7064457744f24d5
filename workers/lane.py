"""How a plan's tokens become logits: the one thing in which architectures differ. The engine knows no more of a model.

`paged.py` runs what can keep its keys and values in the block pool; other lanes keep their own state by sequence.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch

from tokenyard.workers.scheduler import Plan, Sequence
from tokenyard.workers.scoring import PromptLogprobs


class Guessed(NamedTuple):
    """What follows the drafts of one sequence."""

    sequence: Sequence
    drafts: list[int]
    rows: torch.Tensor  # [K, V], raw: after each of the K drafts, if it and those before it are right


class Logits(NamedTuple):
    """What one step gives to the sampler."""

    sequences: list[Sequence]
    """R sequences that get a token now: decodes, prompts that end in this step, then guesses, in the plan's order."""
    rows: torch.Tensor  # [R, V], raw
    guessed: list[Guessed] = []
    prompts: list[PromptLogprobs] = []
    """Of what this step computed of those prompts whose logprobs are wanted."""

    def take(self, rows: list[int]) -> "Logits":
        """The same with these rows only."""
        if len(rows) == len(self.sequences):
            return self
        return self._replace(sequences=[self.sequences[row] for row in rows], rows=self.rows[rows])


class Lane(Protocol):
    """Runs steps of one loaded model. Called from the engine's thread only, within inference mode."""

    def most_drafts(self, num_decodes: int) -> int:
        """Guessed tokens that it can check beside so many decodes; 0 from a lane that cannot."""
        return 0

    def scores_prompts(self) -> bool:
        """Whether it can tell the logprobs of a prompt's own tokens."""
        return False

    def runs_ahead(self, plan: Plan) -> bool:
        """Whether this plan can run while the ids of the last step's tokens are known to the device only."""
        return False

    def run(self, plan: Plan) -> Logits:
        """Compute all tokens of a plan."""
        ...

    def drew(self, sequences: list[Sequence], tokens: torch.Tensor) -> None:
        """The device is drawing these tokens, int64 [R]; negative where a row is broken. To a lane that runs ahead."""
        return

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended; its blocks may be another's from now on."""
        ...

    def scrub(self, blocks: Iterable[int]) -> None:
        """These blocks hold no finite numbers: whoever gets them next must not read any of it."""
        ...
