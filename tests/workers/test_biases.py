"""Biases are what the parameters say at each draw, and are sent only when that changes."""

import math
from typing import Any

import torch

from tokenyard.broker.params import Grammar, Params
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers.biases import Biases
from tokenyard.workers.scheduler import Sequence

VOCAB = 9


def sequence(**params: Any) -> Sequence:
    return Sequence(WorkerJob(b"", 0, 1), [1, 2], [], Params(99, **params))


def added(biases: Biases, num_rows: int) -> list[dict[int, float]]:
    """What a draw adds to each row."""
    scores = torch.zeros(num_rows, VOCAB)
    biases.add_to(scores)
    return [{at: row[at] for at in range(VOCAB) if row[at]} for row in scores.tolist()]


def test_biases_add_up_and_stops_wait_for_min_tokens() -> None:
    rows = [
        sequence(logit_bias={3: 2.5, 4: -1.0}),
        sequence(),
        sequence(min_tokens=2, stop_token_ids=[5, 6], logit_bias={5: 7.0, 8: 1.0}),
        sequence(min_tokens=3, stop_token_ids=[0]),
        sequence(min_tokens=3, stop_token_ids=[0], grammar=Grammar("regex", "a", "")),
    ]
    biases = Biases(rows)
    always: list[dict[int, float]] = [{3: 2.5, 4: -1.0}, {}, {5: 7.0, 8: 1.0}, {}, {}]
    for num_drawn in range(5):
        wanted = [dict(one) for one in always]
        if num_drawn < 2:
            wanted[2].update({5: -math.inf, 6: -math.inf})
        if num_drawn < 3:
            wanted[3][0] = -math.inf
        assert added(biases, len(rows)) == wanted
        for one in rows:
            one.num_tokens += 1


def test_nothing_is_sent_while_nothing_changes() -> None:
    one = sequence(min_tokens=3, stop_token_ids=[0], logit_bias={1: 1.0})
    biases = Biases([one])
    sent = []
    for _ in range(6):
        added(biases, 1)
        sent.append(biases._placed)
        one.num_tokens += 1
    assert sent[0] is sent[1] is sent[2]
    assert sent[2] is not sent[3]
    assert sent[3] is sent[4] is sent[5]


def test_no_bias_is_left_after_min_tokens() -> None:
    one = sequence(min_tokens=1, stop_token_ids=[0])
    biases = Biases([one])
    assert added(biases, 1) == [{0: -math.inf}]
    one.num_tokens += 1
    assert added(biases, 1) == [{}]
