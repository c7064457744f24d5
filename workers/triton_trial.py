"""Runs each of Triton's kernels once for one layer's heads, before a model depends on them.

What the compiler refuses depends on the size of heads and on the device (shared memory, registers), seldom on what else
a layer asks for; so two kinds of layers stand for all. Imports triton: import it only where kernels can run.
"""

import torch

from tokenyard.workers.attention import Flavour
from tokenyard.workers.chunks import Chunks
from tokenyard.workers.kv import LayerShape
from tokenyard.workers.triton_decode import decode
from tokenyard.workers.triton_prefill import prefill
from tokenyard.workers.triton_write import write

BLOCK_SIZE = 16


def run_all(shape: LayerShape, dtype: torch.dtype, device: torch.device) -> None:
    """Raises what Triton does where a kernel cannot be compiled or launched."""
    num_heads = shape.num_heads * shape.group
    query = torch.zeros(1, num_heads, shape.key_dim, dtype=dtype, device=device)
    out = query.new_zeros(1, num_heads, shape.value_dim)
    keys = query.new_zeros(BLOCK_SIZE, shape.num_heads, shape.key_dim)
    values = query.new_zeros(BLOCK_SIZE, shape.num_heads, shape.value_dim)
    table = torch.zeros(1, 1, dtype=torch.int32, device=device)
    starts = torch.tensor([0, 1], dtype=torch.int32, device=device)
    lengths = starts[1:]
    write(keys[:1].clone(), values[:1].clone(), keys, values, starts[:1].long())
    chunks = Chunks([(1, 1)], BLOCK_SIZE, table, starts, lengths)
    for flavour in (Flavour(1.0, None, None, None), Flavour(1.0, BLOCK_SIZE, 1.0, query.new_zeros(num_heads))):
        for num_splits in (1, 2):
            decode(query, keys, values, table, lengths, *flavour, out, block_size=BLOCK_SIZE, num_splits=num_splits)
        prefill(query, keys, values, chunks, flavour, out)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # a launch may fail later than it returns
