"""The paged lane: packs a plan into one forward of the model over the block pool."""

from collections.abc import Iterable

from tokenyard.workers.kernels import make_pool, pack
from tokenyard.workers.lane import Lane, Logits
from tokenyard.workers.model import LoadedModel
from tokenyard.workers.scheduler import Plan, Sequence


class PagedLane(Lane):
    """Serves every model that passed the self-test on our attention."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self.pool = make_pool(model.shapes, model.num_blocks, model.card.block_size, model.dtype, model.device)

    def run(self, plan: Plan) -> Logits:
        batch = pack(plan, self.pool, self._model.device)
        rows = self._model.forward(batch.input_ids, batch.position_ids, batch.logit_rows, batch.step)
        return Logits(batch.sampled, rows)

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept by sequence: the scheduler gives the blocks back."""

    def scrub(self, blocks: Iterable[int]) -> None:
        self.pool.scrub(blocks)
