"""Biases of single tokens: logit_bias, and minus infinity for stop tokens below min_tokens.

They lie on the device for as long as a batch stays the same; only when one of its sequences reaches its min_tokens are
they sent anew. Must not know what else moves logits (sampler.py).
"""

import math

import torch

from tokenyard.broker.params import Params
from tokenyard.workers.scheduler import Sequence
from tokenyard.workers.stage import to_device


def has_biases(params: Params) -> bool:
    return bool(params.logit_bias or params.min_tokens)


class Biases:
    """Those of one batch's rows."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self._sequences = sequences
        self._waiting: list[int] | None = None
        """Rows below their min_tokens when what lies on the device was sent."""
        self._placed: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        """Rows, token ids and biases, each [N]; None if there are none."""

    def add_to(self, scores: torch.Tensor) -> None:
        """Add them to scores, [R, V], float32."""
        waiting = [row for row, sequence in enumerate(self._sequences) if _must_go_on(sequence)]
        if waiting != self._waiting:
            self._waiting, self._placed = waiting, self._place(waiting, scores.device)
        if self._placed is not None:
            rows, ids, biases = self._placed
            scores.index_put_((rows, ids), biases, accumulate=True)

    def _place(
        self, waiting: list[int], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        found = [(row, *item) for row, one in enumerate(self._sequences) for item in one.params.logit_bias.items()]
        found += [(row, token, -math.inf) for row in waiting for token in self._sequences[row].params.stop_token_ids]
        if not found:
            return None
        rows, ids, biases = zip(*found, strict=True)
        return (
            to_device(rows, torch.int64, device),
            to_device(ids, torch.int64, device),
            to_device(biases, torch.float32, device),
        )


def _must_go_on(sequence: Sequence) -> bool:
    """Whether it may not stop yet, and no grammar sees to that."""
    return sequence.num_drawn < sequence.params.min_tokens and sequence.params.grammar is None
