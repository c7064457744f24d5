"""Before a model is served: does it give the same logits behind our attention as by itself?

A prefill in two chunks and a few decodes, two sequences side by side, against one plain forward. It compares logits,
not tokens, as near-ties flip. It also finds out what each layer keeps of a token.
"""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from tokenyard.broker.errors import SetupError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers import attention
from tokenyard.workers.batch import pack
from tokenyard.workers.kv import KVPool, LayerShape
from tokenyard.workers.scheduler import Chunk, Plan, Sequence

NUM_TOKENS = 40
NUM_DECODES = 3
"""Tokens of each of the two sequences: over two blocks of 16, so that tables, chunks and decodes all matter."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference allowed, as a share of the logits' largest magnitude: some 25 units of the dtype's last place (8
bits: bfloat16, 11: float16), over many layers; a wrong mask or position moves logits by their own magnitude."""


def selftest(model: PreTrainedModel, block_size: int) -> list[LayerShape]:
    """Leave the model set to our attention and return its layers' shapes; raises SetupError if it cannot be served."""
    name = type(model).__name__
    device = model.device
    vocab_size = model.config.get_text_config().vocab_size
    ids = torch.arange(2 * NUM_TOKENS, device=device).view(2, -1) * 7919 % vocab_size  # any spread of ids will do
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits.float()  # [2, NUM_TOKENS, V]
        shapes = _probe(model, ids[:1])
        pool = KVPool(shapes, 2 * -(-NUM_TOKENS // block_size), block_size, model.dtype, device)
        for rows, found in _paged(model, pool, ids, device):
            wanted = expected[rows[:, 0], rows[:, 1]]
            error = ((found - wanted).abs().max() / wanted.abs().max()).item()
            if not error <= TOLERANCE[model.dtype]:  # NaN fails too
                raise SetupError(
                    f"{name} gives other logits behind paged attention (by {error:.2g}): it cannot be served yet"
                )
    return shapes


def _probe(model: PreTrainedModel, ids: torch.Tensor) -> list[LayerShape]:
    """What each layer keeps; sets our attention. Raises SetupError where the model does not call it in each layer."""
    name = type(model).__name__
    model.set_attn_implementation(attention.NAME)
    probe = attention.Probe()
    last = torch.tensor([ids.shape[1] - 1], device=ids.device)
    try:
        attention.forward(model, ids, torch.arange(ids.shape[1], device=ids.device).unsqueeze(0), last, probe)
    except (TypeError, ValueError) as error:
        raise SetupError(f"{name} cannot run on paged attention: {error}") from error
    num_layers = model.config.get_text_config().num_hidden_layers
    if sorted(probe.shapes) != list(range(num_layers)):
        raise SetupError(
            f"{name} reached our attention in {len(probe.shapes)} of {num_layers} layers: it cannot be served yet"
        )
    return [probe.shapes[layer] for layer in range(num_layers)]


def _paged(
    model: PreTrainedModel, pool: KVPool, ids: torch.Tensor, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each step its (sequence, position) pairs [R, 2] and their logits float32 [R, V]."""
    size = pool.block_size
    num_blocks = -(-NUM_TOKENS // size)
    sequences = []
    for number, row in enumerate(ids.tolist()):
        sequence = Sequence(WorkerJob(b"", number, 1), row, [], Params(max_tokens=1))
        sequence.blocks.extend(range(number * num_blocks, (number + 1) * num_blocks))
        sequences.append(sequence)
    first, second = sequences
    half, whole = NUM_TOKENS // 2, NUM_TOKENS - NUM_DECODES
    plans = [
        Plan([], [Chunk(first, 0, half), Chunk(second, 0, whole)]),
        Plan([], [Chunk(first, half, whole)]),
        *[Plan(sequences, []) for _ in range(NUM_DECODES)],
    ]
    for plan in plans:
        batch = pack(plan, pool, device)
        ends = [(one.job.job, one.num_computed) for one in plan.decodes]
        ends += [(sequence.job.job, end - 1) for sequence, _, end in plan.prefills]
        last = (
            torch.cumsum(torch.tensor([1] * len(plan.decodes) + [end - start for _, start, end in plan.prefills]), 0)
            - 1
        )
        logits = attention.forward(model, batch.input_ids, batch.position_ids, last.to(device), batch.step)
        for sequence in plan.decodes:
            sequence.num_computed += 1
        for sequence, _, end in plan.prefills:
            sequence.num_computed = end
        yield torch.tensor(ends, device=device), logits.float()
