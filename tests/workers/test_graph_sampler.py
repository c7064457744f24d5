"""Draws replayed as graphs are the eager sampler's, whatever changes between two replays."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tape import record

from tokenyard.broker.params import Params, Processors
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers.drawn import BROKEN
from tokenyard.workers.grammars import Allowed
from tokenyard.workers.graph_sampler import GraphSampler
from tokenyard.workers.graphs import buckets
from tokenyard.workers.sampler import Sampler
from tokenyard.workers.scheduler import Sequence

VOCAB = 301
NUM_ROWS = 8
CPU = torch.device("cpu")
GRAPHED: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 1.3, "min_p": 0.05},
    {"temperature": 0.9, "top_k": 20, "top_p": 0.9},
    {"temperature": 0.9, "top_k": 1},
    {"temperature": 0.0, "top_k": 50, "top_p": 0.5},
]
EAGER: list[dict[str, Any]] = [
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 65},
    {"temperature": 0.7, "repetition_penalty": 1.2},
    {"temperature": 0.0, "logit_bias": {3: 100.0}},
    {"temperature": 0.0, "min_tokens": 50, "stop_token_ids": [1]},
    {"temperature": 0.7, "logprobs": 2},
    {"temperature": 0.7, "processors": Processors(typical_p=0.9)},
    {"temperature": 0.0, "processors": Processors(no_repeat_ngram_size=1)},
]


@pytest.fixture(autouse=True)
def _inference_mode() -> Iterator[None]:
    """As in the engine's step."""
    with torch.inference_mode():
        yield


class Pair:
    """Both samplers over the same logits."""

    def __init__(self) -> None:
        self.logits = torch.zeros(NUM_ROWS, VOCAB)
        self.graphed = GraphSampler(VOCAB, CPU, self.logits, buckets(NUM_ROWS))
        for _ in self.graphed.recording(record):
            pass
        self.eager = Sampler(VOCAB, CPU)

    def check(self, sequences: list[Sequence], seed: int, allowed: Allowed | None = None) -> list[int]:
        self.logits.copy_(torch.randn(NUM_ROWS, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3)
        rows = self.logits[: len(sequences)]
        wanted = [one.token for one in self.eager.sample(rows, sequences, allowed)]
        found = [one.token for one in self.graphed.sample(rows, sequences, allowed)]  # last: it may mask in place
        assert found == wanted
        for one, token in zip(sequences, found, strict=True):
            one.ids.append(token)
            one.num_tokens += 1
        return found

    def num_replays(self) -> int:
        return sum(graph.num_replays for graph in self.graphed._graphs.values())  # type: ignore[attr-defined]


def sequence(number: int, **params: Any) -> Sequence:
    return Sequence(WorkerJob(b"", number, 1), [1, 2, 3], [], Params(999, seed=2**63 + 7 * number, **params))


def test_graphs_draw_what_the_eager_sampler_draws() -> None:
    pair = Pair()
    sequences = [sequence(number, **GRAPHED[number % len(GRAPHED)]) for number in range(NUM_ROWS)]
    drawn = set()
    for turn in range(40):
        count = (8, 8, 5, 1, 3)[turn // 3 % 5]
        start = turn // 6 % (NUM_ROWS - count + 1)
        drawn.update(pair.check(sequences[start : start + count], turn))
    assert pair.num_replays() == 40
    assert len(drawn) > 50


def test_rows_that_follow_a_grammar_leave_the_batch_on_its_graph() -> None:
    pair = Pair()
    sequences = [sequence(number, **GRAPHED[number % len(GRAPHED)]) for number in range(NUM_ROWS)]
    few = np.zeros((2, VOCAB // 32 + 1), np.int32)
    few[0, 3], few[1, 0] = 0b1010, 1
    allowed = Allowed(torch.tensor([1, 6]), torch.from_numpy(few))
    for turn in range(10):
        tokens = pair.check(sequences, turn, allowed)
        assert tokens[1] in (97, 99)
        assert tokens[6] == 0
    assert pair.num_replays() == 10


@pytest.mark.parametrize("params", EAGER)
def test_what_no_graph_knows_is_drawn_eagerly(params: dict[str, Any]) -> None:
    pair = Pair()
    sequences = [sequence(0, temperature=0.7), sequence(1, **params)]
    for turn in range(5):
        pair.check(sequences, turn)
    assert pair.num_replays() == 0
    pair.check(sequences[:1], 9)
    assert pair.num_replays() == 1


def test_logits_of_another_place_are_drawn_eagerly() -> None:
    pair = Pair()
    pair.graphed.sample(torch.zeros(1, VOCAB), [sequence(0, temperature=0.7)])
    assert pair.num_replays() == 0


def test_tokens_of_one_draw_outlive_the_next() -> None:
    pair = Pair()
    one = sequence(0, temperature=0.0)
    pair.logits[0, 5] = 9.0
    first = pair.graphed.draw(pair.logits[:1], [one])
    pair.logits[0, 6] = 10.0
    second = pair.graphed.draw(pair.logits[:1], [one])
    assert [first.read()[0].token, second.read()[0].token] == [5, 6]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_broken_rows_are_told_and_harm_no_neighbour(value: float) -> None:
    pair = Pair()
    sequences = [sequence(number, temperature=0.7 * (number % 2)) for number in range(4)]
    pair.logits.copy_(torch.randn(NUM_ROWS, VOCAB, generator=torch.Generator().manual_seed(0)))
    pair.logits[1:3] = value
    found = [one.token for one in pair.graphed.sample(pair.logits[:4], sequences)]
    assert found[1:3] == [BROKEN, BROKEN]
    assert found == [one.token for one in pair.eager.sample(pair.logits[:4], sequences)]
