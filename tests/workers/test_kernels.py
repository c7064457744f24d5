"""Which kernels a device gets."""

import torch
from engines import job_of

from tokenyard.broker.params import Params
from tokenyard.workers import attention
from tokenyard.workers.kernels import make_pool, pack, triton_works
from tokenyard.workers.kv import LayerShape
from tokenyard.workers.scheduler import Chunk, Plan, Sequence

CPU = torch.device("cpu")


def test_a_cpu_is_served_by_torch_alone() -> None:
    assert not triton_works(CPU)
    pool = make_pool([LayerShape(1, 4, 6)], 2, 16, torch.float32, CPU)
    key, value = torch.randn(2, 1, 4), torch.randn(2, 1, 6)
    pool.write(0, torch.tensor([3, 20]), key, value)
    keys, values = pool.layer(0)
    assert torch.equal(keys[[3, 20]], key)
    assert torch.equal(values[[3, 20]], value)
    sequence = Sequence(job_of(0), [5, 6], [], Params(max_tokens=1))
    sequence.blocks.append(1)
    batch = pack(Plan([], [Chunk(sequence, 0, 2)]), pool, CPU)
    assert isinstance(batch.step, attention.Step)
