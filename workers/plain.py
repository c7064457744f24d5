"""The plain lane: one cache a sequence, of the model's own kind, and one forward a sequence a step.

For models that keep more than keys and values of whole layers (recurrent states, convolutions), or that do not lead
their attention through our function. Slower than the paged lane, as sequences share no forward; all else is the same.
Blocks are a budget in tokens here: nothing lies in them.
"""

import inspect
from collections.abc import Iterable
from enum import StrEnum
from itertools import product
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel

from tokenyard.workers.lane import Lane, Logits
from tokenyard.workers.rack import Rack, adapted
from tokenyard.workers.scheduler import Plan, Sequence
from tokenyard.workers.scoring import Head, PromptLogprobs, Unscored, score_prompts, unscored

CACHE_NAMES = ("cache", "past_key_values", "cache_params", "state", "mems")
"""Under these names models take and return what they keep (transformers' generation has the same list). The first is
new in transformers 5.24, and replaces the next two in its own models; a model's own code may have the older ones."""
EMPTY_CACHE_NAMES = CACHE_NAMES[:3]
"""Under these a model takes an empty cache, made for the layer types that its config names, as generation does."""


class Prefill(StrEnum):
    """How much of a sequence a model takes at once."""

    CHUNKS = "chunks"
    WHOLE = "whole"
    """A second chunk of several tokens comes out wrong: some recurrent kernels ignore their state there."""
    ANEW = "anew"
    """It keeps nothing that could be gone on from: every step computes the whole sequence."""


class Way(NamedTuple):
    """How a model is run; the self-test takes the first of WAYS that gives the model's own logits."""

    prefill: Prefill
    own_cache: bool
    """The model makes its cache itself: some take no other."""
    positions: bool
    """It is told positions: some count wrong from their cache, others count in another way than we do."""


WAYS = [
    *(Way(*one) for one in product((Prefill.CHUNKS, Prefill.WHOLE), (False, True), (True, False))),
    Way(Prefill.ANEW, own_cache=False, positions=False),
]


class State(NamedTuple):
    """What a model keeps of one sequence, and the name under which its forward takes that."""

    name: str
    cache: Any


class PlainModel:
    """A model's own forward, one sequence at a time."""

    def __init__(self, model: PreTrainedModel, way: Way) -> None:
        self.way = way
        self._model = model
        self.head = Head(model)
        self._parameters = inspect.signature(model.forward).parameters
        self._use_cache = way.prefill is not Prefill.ANEW

    def forward(self, ids: list[int], start: int, state: State | None) -> tuple[torch.Tensor, State | None]:
        """Logits [V] after `ids`, whose positions begin at `start` and follow `state`, and the state after them."""
        if state is None:
            state = self._empty()
        given = {} if state is None else {state.name: state.cache}
        if self.way.positions and "position_ids" in self._parameters:
            given["position_ids"] = torch.arange(start, start + len(ids), device=self._model.device).unsqueeze(0)
        if "logits_to_keep" in self._parameters:
            given["logits_to_keep"] = 1
        input_ids = torch.tensor([ids], device=self._model.device)
        output = self._model(input_ids=input_ids, use_cache=self._use_cache, **given)
        return output.logits[0, -1], (self._kept(output) or state) if self._use_cache else None

    def _kept(self, output: Any) -> State | None:
        """What the model's output keeps for later tokens, if anything, under the name that its forward takes."""
        kept = ((name, output.get(name)) for name in CACHE_NAMES)
        name, cache = next((one for one in kept if one[1] is not None), ("", None))
        if cache is None:
            return None
        if name not in self._parameters:  # outputs rename what code of a model's own puts in
            name = next((one for one in CACHE_NAMES if one in self._parameters), name)
        return State(name, cache)

    def _empty(self) -> State | None:
        name = next((name for name in EMPTY_CACHE_NAMES if name in self._parameters), None)
        if name is None or self.way.own_cache or not self._use_cache:
            return None
        return State(name, DynamicCache(config=self._model.config.get_text_config(decoder=True)))


class PlainLane(Lane):
    """Serves every model that gives its own logits in one of the WAYS."""

    def __init__(self, model: PlainModel, rack: Rack | None = None) -> None:
        self._model = model
        self._rack = rack
        self._states: dict[Sequence, State] = {}

    def run(self, plan: Plan) -> Logits:
        for sequence in [one for one in self._states if one.num_computed == 0]:
            del self._states[sequence]  # it was preempted
        sampled = plan.decodes.copy()
        rows = [self._advance(one, one.num_computed, len(one.ids)) for one in plan.decodes]
        prompts: list[PromptLogprobs] = []
        for chunk in plan.prefills:
            sequence, start, end = chunk
            wanted = unscored(chunk)
            if wanted.end > wanted.start:
                with self._model.head.watching():
                    row = self._advance(sequence, start, end)
                prompts += self._score(wanted, end)
            else:
                row = self._advance(sequence, start, end)
            if end == len(sequence.ids):
                sampled.append(sequence)
                rows.append(row)
        return Logits(sampled, torch.stack(rows) if rows else torch.empty(0, 0), prompts=prompts)

    def scores_prompts(self) -> bool:
        return self._model.head.works

    def forget(self, sequence: Sequence) -> None:
        self._states.pop(sequence, None)

    def scrub(self, blocks: Iterable[int]) -> None:
        """Nothing lies in blocks."""

    def _score(self, wanted: Unscored, end: int) -> list[PromptLogprobs]:
        """Of the forward that has just run, up to position `end`."""
        body = self._model.head.body()
        first = end - len(body.hidden)
        rows = body.hidden[wanted.start - first : wanted.end - first]
        return score_prompts(self._model.head, [wanted], [rows], body)

    def _advance(self, sequence: Sequence, start: int, end: int) -> torch.Tensor:
        """Compute positions [start, end); logits [V] after them."""
        if self._model.way.prefill is Prefill.ANEW:
            start = 0
        with adapted(self._rack, [(sequence.shelf, end - start)]):
            row, state = self._model.forward(sequence.ids[start:end].tolist(), start, self._states.get(sequence))
        if state is not None:
            self._states[sequence] = state
        return row


def num_bytes(state: State | None) -> int:
    """Memory of all tensors in a state, wherever its classes keep them."""
    found: dict[int, int] = {}
    _collect(state, found, set())
    return sum(found.values())


def _collect(value: Any, found: dict[int, int], seen: set[int]) -> None:
    """Add storages (address to bytes) of the tensors below `value`."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    for part in parts:
        _collect(part, found, seen)
