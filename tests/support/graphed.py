"""Engines whose decodes are replayed as graphs, by a tape, and jobs for them."""

from dataclasses import replace

from engines import BLOCK, CONTEXT, Bench, prompt_of
from tape import record

from tokenyard.broker.params import Params
from tokenyard.workers.engine import Engine
from tokenyard.workers.graph_lane import GraphLane
from tokenyard.workers.graphs import num_rows
from tokenyard.workers.model import EngineOptions
from tokenyard.workers.paged import PagedLane
from tokenyard.workers.static_step import gathered_decode

WIDTHS = [2, 8, CONTEXT // BLOCK]


class Graphed:
    """An engine on the graph lane, and the tapes that stand in for graphs."""

    def __init__(
        self,
        bench: Bench,
        max_num_seqs: int = 8,
        num_blocks: int = 400,
        most_blocks: int = 10_000,
        num_drafts: int = 0,
        late: bool = False,
    ) -> None:
        card = bench.loaded.card._replace(pool_tokens=num_blocks * BLOCK)
        model = replace(bench.loaded, num_blocks=num_blocks, card=card)
        most = num_rows(max_num_seqs, num_drafts)
        self.paged = PagedLane(model)
        self.lane = GraphLane(model, self.paged, most, WIDTHS, gathered_decode, record, most_blocks)
        options = EngineOptions(max_num_seqs=max_num_seqs, max_batch_tokens=64, num_drafts=num_drafts, late=late)
        self.engine = Engine(model, options, self.lane)

        self._num_trials = self.all_replays()

    def num_replays(self) -> dict[tuple[int, int], int]:
        """Since they were tried."""
        return {shape: count - self._num_trials[shape] for shape, count in self.all_replays().items()}

    def all_replays(self) -> dict[tuple[int, int], int]:
        """Those of trials, too."""
        return {shape: graph.num_replays for shape, graph in self.lane._graphs.items()}  # type: ignore[attr-defined]


def mixed(number: int, count: int = 40) -> Params:
    """Greedy, drawn, limited and penalised rows beside each other."""
    return Params(
        max_tokens=count,
        temperature=(0.0, 0.8)[number % 2],
        top_k=(0, 20)[number // 2 % 2],
        repetition_penalty=(1.0, 1.2)[number // 3 % 2],
        frequency_penalty=(0.0, 0.2)[number % 3 == 1],
        seed=number,
        logprobs=(-1, 2)[number % 4 == 3],
    )


def cycle(number: int) -> list[int]:
    """A prompt in which most runs of tokens come again."""
    return prompt_of(12, salt=number) * 4


def cyclic(number: int) -> Params:
    """So strong a bias towards a few tokens that a stream repeats itself, but not always."""
    return mixed(number, 60)._replace(logit_bias=dict.fromkeys(range(4), 30.0))


def drawn(number: int, count: int) -> Params:
    """What the sampler has graphs for."""
    return Params(max_tokens=count, temperature=(0.8, 0.0)[number % 2], top_k=(20, 0)[number // 2 % 2], seed=number)
