"""The jobs of a request for decisions, one prefill a question, and the probabilities that they find.

Knows the pool's side; what is asked and how an answer is shaped is the endpoints' matter.
"""

import math

from tokenyard.broker.params import Params
from tokenyard.broker.wire import Card
from tokenyard.http.choice import Choice
from tokenyard.http.decisions.reader import Asked
from tokenyard.http.detokenize import Detokenizer
from tokenyard.http.generation import Generation, Plan
from tokenyard.http.library import LoadedTokenizer
from tokenyard.http.pool import JobRequest, Pool
from tokenyard.http.stops import StopScanner

MAX_AT_ONCE = 128
"""Jobs of one request in the pool: as many as an answer has choices. All 400 would fill half of the broker's queue."""


class Verdicts:
    """Of one request."""

    def __init__(self, pool: Pool, card: Card, loaded: LoadedTokenizer, asked: list[Asked]) -> None:
        self.asked = asked
        self.generation = Generation(
            pool,
            [
                Plan(
                    Choice(index, Detokenizer(loaded.backend), StopScanner([], False)),
                    JobRequest(card.names[0], one.ids, Params(0, score_ids=one.label_ids), kind="score"),
                    counts_prompt=True,
                )
                for index, one in enumerate(asked)
            ],
            MAX_AT_ONCE,
        )

    @property
    def probabilities(self) -> list[list[float]]:
        """Of each question's options, once the generation is finished."""
        return [
            softmax([score / one.temperature for score in choice.scores])
            for one, choice in zip(self.asked, self.generation.choices, strict=True)
        ]

    @property
    def num_tokens(self) -> int:
        """Of all prompts."""
        return sum(len(one.ids) for one in self.asked)

    @property
    def num_cached(self) -> int:
        """Of these, what was not computed again."""
        return sum(choice.num_cached for choice in self.generation.choices)


def softmax(scores: list[float]) -> list[float]:
    """Where all are minus infinity, all are alike."""
    most = max(scores)
    if most == -math.inf:
        return [1 / len(scores)] * len(scores)
    weights = [math.exp(score - most) for score in scores]
    whole = sum(weights)
    return [weight / whole for weight in weights]
