"""Texts to vectors: the jobs of kind embed, run between the steps of the streams.

A text is computed at once and keeps nothing: it takes no block. Several share a forward as far as the step's token
budget goes. Must not know of sampling or schedules.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import PLAIN, AdapterKey, WorkerJob
from tokenyard.workers.adapters import Adapters
from tokenyard.workers.attention import Span, Step
from tokenyard.workers.kernels import FAILURES
from tokenyard.workers.kv import KVPool, Table
from tokenyard.workers.lane import Lane, Logits
from tokenyard.workers.model import LoadedModel
from tokenyard.workers.pooling import pool
from tokenyard.workers.rack import adapted
from tokenyard.workers.scheduler import Held, Plan, Sequence, is_held

NO_JOB = WorkerJob(b"", 0, 0)
"""Of a text that is only tried."""


class Text(NamedTuple):
    """One job."""

    key: WorkerJob
    ids: list[int]
    adapter: AdapterKey
    shelf: int
    """Where that lies."""


class Embedded(NamedTuple):
    """What came of one job."""

    key: WorkerJob
    vector: bytes
    """float32, little-endian."""


class Embedder:
    """Texts of one model that wait, in order of arrival."""

    def __init__(self, model: LoadedModel, max_batch_tokens: int, adapters: Adapters) -> None:
        self._model = model
        self._adapters = adapters
        self._hidden = HIDDEN[model.card.lane]
        self._max_batch_tokens = max_batch_tokens
        self._waiting: deque[Text] = deque()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, key: WorkerJob, ids: list[int], adapter: AdapterKey = PLAIN) -> None:
        """Take a text in. Raises TokenyardError if it can never be embedded."""
        card, pooling = self._model.card, self._model.pooling
        longest = min(card.context_length, pooling.max_length or card.context_length)
        if not ids:
            raise TokenyardError("invalid_value", "the text is empty", "input")
        if max(ids) >= card.vocab_size:
            raise TokenyardError("invalid_value", f"token ids must be below {card.vocab_size:,}", "input")
        if len(ids) > longest:
            words = f"the text has {len(ids):,} tokens; this model takes at most {longest:,}"
            raise TokenyardError("context_length_exceeded", words, "input")
        if not self._works:
            raise TokenyardError("invalid_value", "this model gives no hidden states to make a vector of", "model")
        self._waiting.append(Text(key, ids, adapter, self._adapters.take(adapter)))

    @property
    def most_tokens(self) -> int:
        """Of one step with the texts that wait."""
        return max(self._max_batch_tokens, *(len(text.ids) for text in self._waiting)) if self._waiting else 0

    def abort(self, key: WorkerJob) -> None:
        for text in [text for text in self._waiting if text.key == key]:
            self._waiting.remove(text)
            self._adapters.leave(text.adapter)

    def step(self, held: Held) -> list[Embedded]:
        """Embed as many of the waiting texts as the budget takes, but at least one; not those in `held`."""
        texts = self._take(held)
        if not texts:
            return []
        states = self._hidden(self._model, texts)
        for text in texts:
            self._adapters.leave(text.adapter)
        vectors = torch.stack([pool(one, self._model.pooling) for one in states]).cpu().numpy()
        return [Embedded(text.key, vector.astype("<f4").tobytes()) for text, vector in zip(texts, vectors, strict=True)]

    def _take(self, held: Held) -> list[Text]:
        texts: list[Text] = []
        left = self._max_batch_tokens
        for text in [one for one in self._waiting if not is_held(one.key, held)]:
            if texts and len(text.ids) > left:
                break
            left -= len(text.ids)
            texts.append(text)
        taken = {text.key for text in texts}
        self._waiting = deque(text for text in self._waiting if text.key not in taken)
        return texts

    @cached_property
    def _works(self) -> bool:
        """Whether the model gives its hidden states: code of its own may not."""
        try:
            with torch.inference_mode():
                self._hidden(self._model, [Text(NO_JOB, [0, 0], PLAIN, 0)])
        except FAILURES:
            return False
        return True


class EncoderLane(Lane):
    """The lane of a model that only embeds: it takes no part in steps, as no sequence ever comes to be."""

    def run(self, plan: Plan) -> Logits:
        raise AssertionError("an encoder gives no tokens")

    def forget(self, sequence: Sequence) -> None:
        """There is none."""

    def scrub(self, blocks: Iterable[int]) -> None:
        """Nothing lies in blocks."""


def _packed(model: LoadedModel, texts: list[Text]) -> list[torch.Tensor]:
    """All texts in one row, each by itself behind our attention."""
    lengths = [len(text.ids) for text in texts]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    spans = [Span(end - length, end, 0, NO_TABLE) for end, length in zip(ends, lengths, strict=True)]
    input_ids = torch.tensor([[one for text in texts for one in text.ids]], device=model.device)
    positions = torch.cat([torch.arange(length, device=model.device) for length in lengths]).unsqueeze(0)
    step = Step(NOWHERE, positions, [], spans)
    body = model.model.base_model
    with adapted(model.rack, [(text.shelf, len(text.ids)) for text in texts]):
        hidden = body(input_ids=input_ids, position_ids=positions, use_cache=False, step=step).last_hidden_state
    return list(hidden[0].split(lengths))


def _each(model: LoadedModel, texts: list[Text]) -> list[torch.Tensor]:
    """One text after another, by the model's own forward."""
    body = model.model.base_model
    found = []
    for text in texts:
        with adapted(model.rack, [(text.shelf, len(text.ids))]):
            row = torch.tensor([text.ids], device=model.device)
            found.append(body(input_ids=row, use_cache=False).last_hidden_state[0])
    return found


def _padded(model: LoadedModel, texts: list[Text]) -> list[torch.Tensor]:
    """All texts side by side, padded at their ends to the longest."""
    padding = model.model.config.pad_token_id or 0
    rows = [torch.tensor(text.ids, device=model.device) for text in texts]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(text.ids) for text in texts], device=model.device)
    mask = torch.arange(input_ids.shape[1], device=model.device) < lengths.unsqueeze(1)
    hidden = model.model(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
    return [hidden[row, : len(text.ids)] for row, text in enumerate(texts)]


HIDDEN: dict[str, Callable[[LoadedModel, list[Text]], list[torch.Tensor]]] = {
    "paged": _packed,
    "plain": _each,
    "encoder": _padded,
}
"""By lane: the last hidden states [N, D] of each text."""


class _Nowhere(KVPool):
    """A pool that keeps nothing: a text that is computed at once reads none of it back."""

    def __init__(self) -> None:
        """It has no slots."""

    def write(self, layer: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Nobody will read it."""


NOWHERE = _Nowhere()
NO_TABLE = Table(torch.empty(0), None)
