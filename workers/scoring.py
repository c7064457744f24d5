"""Logprobs of tokens that are given and not drawn: a prompt's own, each after those before it, and a few after its end.

The model's own code makes logits of hidden states that it is handed: so many rows at a time, however long the prompt,
and never those of a whole prompt at once. Must not know of steps, blocks or sampling.
"""

import dataclasses
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from tokenyard.broker.config import MAX_FINISH_BYTES
from tokenyard.workers.kernels import FAILURES
from tokenyard.workers.scheduler import Chunk, Sequence
from tokenyard.workers.stage import to_device

ROWS = 64
"""Logits are made of so many rows at once: as many as a step of 64 sequences has, which memory.py leaves room for."""
NUMBER_BYTES = 4
"""Of a float32, and of a token id."""


class Unscored(NamedTuple):
    """Positions [start, end) of a sequence, whose logits are wanted for the prompt tokens that follow them."""

    sequence: Sequence
    start: int
    end: int


def unscored(chunk: Chunk) -> Unscored:
    """What of a chunk is wanted; empty for nearly all."""
    sequence, start, end = chunk
    return Unscored(sequence, max(start, sequence.num_scored), min(end, sequence.num_prompt - 1))


class Body(NamedTuple):
    """What a model's body gave for a forward."""

    output: Any
    """Of the model's own type."""
    hidden: torch.Tensor  # [T, D]


class Head:
    """A model's way from the hidden states of its body to logits, in its own code: scales, caps and all."""

    def __init__(self, model: PreTrainedModel, **inputs: Any) -> None:
        """`inputs`: what its forward must be given beside ids and positions."""
        self._model = model
        self._inputs = inputs
        self._seen: Any = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """body() is that of the forward that runs within."""
        hook = self._model.base_model.register_forward_hook(self._see)
        try:
            yield
        finally:
            hook.remove()

    def body(self) -> Body:
        """What watching() saw; to be taken once."""
        output, self._seen = self._seen, None
        return Body(output, output.last_hidden_state[0])

    def _see(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._seen = output

    def logits(self, body: Body, rows: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] of hidden states `rows` [R, D] from this body."""
        name = self._model.base_model_prefix
        own = getattr(self._model, name)
        given = dataclasses.replace(body.output, last_hidden_state=rows.unsqueeze(0))
        ids = torch.zeros(1, len(rows), dtype=torch.int64, device=rows.device)
        setattr(self._model, name, _Given(given))
        try:
            logits: torch.Tensor = self._model(input_ids=ids, use_cache=False, **self._inputs).logits[0]
        finally:
            setattr(self._model, name, own)
        return logits

    @cached_property
    @torch.inference_mode()
    def works(self) -> bool:
        """Whether hidden states handed in come to a forward's logits: in code of a model's own they may not."""
        ids = torch.zeros(1, 2, dtype=torch.int64, device=self._model.device)
        places = {"position_ids": torch.arange(2, device=ids.device).unsqueeze(0)} if self._inputs else {}
        try:
            with self.watching():
                expected = self._model(input_ids=ids, use_cache=False, **places, **self._inputs).logits[0]
            body = self.body()
            return torch.allclose(self.logits(body, body.hidden), expected, rtol=1e-2, atol=1e-2)
        except FAILURES:
            return False


class _Given(nn.Module):
    """Stands in for a model's body: whatever it is asked, its answer is known."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self._output = output

    def forward(self, *_: Any, **__: Any) -> Any:
        return self._output


class PromptLogprobs(NamedTuple):
    """Of N tokens of one prompt, each given those before it."""

    sequence: Sequence
    first: int
    """The first token's index in the prompt."""
    chosen: torch.Tensor  # [N] float32
    ranks: torch.Tensor  # [N]: how many tokens are likelier, and 1
    top_values: torch.Tensor  # [N, K] float32, likeliest first
    top_ids: torch.Tensor  # [N, K]

    def extras(self) -> Iterator[dict[str, object]]:
        """As a delta's `extra`, in pieces of at most MAX_FINISH_BYTES."""
        count, most = self.top_ids.shape
        size = max(1, MAX_FINISH_BYTES // (NUMBER_BYTES * (2 + 2 * most)))
        columns = [self.chosen, self.ranks, self.top_values, self.top_ids]
        packed = [column.cpu().numpy().astype("<f4" if column.is_floating_point() else "<u4") for column in columns]
        for start in range(0, count, size):
            parts = [column[start : start + size].tobytes() for column in packed]
            yield {"prompt_logprobs": [self.first + start, *parts]}


def score_prompts(head: Head, wanted: list[Unscored], rows: list[torch.Tensor], body: Body) -> list[PromptLogprobs]:
    """Logprobs of the tokens after each position that is wanted; `rows`: the hidden states [N, D] there."""
    targets = array("q")
    for sequence, start, end in wanted:
        targets.extend(sequence.ids[start + 1 : end + 1].tolist())
    most = max(sequence.params.prompt_logprobs for sequence, _, _ in wanted)
    on_device = to_device(targets, torch.int64, rows[0].device)
    parts = [
        _score(head.logits(body, hidden), ids, most)
        for hidden, ids in zip(torch.split(torch.cat(rows), ROWS), torch.split(on_device, ROWS), strict=True)
    ]
    sizes = [end - start for _, start, end in wanted]
    columns = [torch.split(torch.cat(column), sizes) for column in zip(*parts, strict=True)]
    scored = []
    for (sequence, start, _), chosen, ranks, values, ids in zip(wanted, *columns, strict=True):
        count = sequence.params.prompt_logprobs
        scored.append(PromptLogprobs(sequence, start + 1, chosen, ranks, values[:, :count], ids[:, :count]))
    return scored


def _score(logits: torch.Tensor, targets: torch.Tensor, most: int) -> tuple[torch.Tensor, ...]:
    """The columns of PromptLogprobs for some rows. logits: [R, V]; targets: [R]."""
    logprobs = logits.float().log_softmax(dim=-1)
    chosen = logprobs.gather(1, targets.unsqueeze(1))
    ranks = (logprobs > chosen).sum(dim=-1) + 1
    top = logprobs.topk(min(most, logprobs.shape[1]), dim=-1)
    return chosen[:, 0], ranks, top.values, top.indices


def score_end(row: torch.Tensor, ids: list[int]) -> list[float]:
    """Logprobs of these tokens; NaN where the model gave none. row: [V], raw logits."""
    scores: list[float] = row.float().log_softmax(dim=-1)[ids].tolist()
    return scores
