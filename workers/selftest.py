"""Before a model is served: does it give the same logits behind our attention as by itself?

Two sequences side by side, prefilled in chunks and decoded for a few tokens, against one plain forward. It compares
logits, not tokens, as near-ties flip. It also finds out what each layer keeps of a token.
"""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from tokenyard.broker.errors import SetupError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers import attention
from tokenyard.workers.batch import pack
from tokenyard.workers.blocks import BlockPool
from tokenyard.workers.kv import KVPool, LayerShape
from tokenyard.workers.scheduler import Scheduler, Sequence

NUM_TOKENS = 40
NUM_DECODES = 3
STEP_TOKENS = 24
"""Tokens of each of the two sequences, decoded ones, and those of one step: so that there are several blocks of 16, a
prompt in two chunks, a step with two prompts and one with a decode beside a prompt."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference allowed, as a share of the logits' largest magnitude: some 25 units of the dtype's last place (8
bits: bfloat16, 11: float16), over many layers; a wrong mask or position moves logits by their own magnitude."""


def selftest(model: PreTrainedModel, block_size: int) -> list[LayerShape]:
    """Leave the model set to our attention and return its layers' shapes; raises SetupError if it cannot be served."""
    name = type(model).__name__
    try:
        with torch.inference_mode():
            error, shapes = _compare(model, block_size)
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as failure:
        raise SetupError(f"{name} cannot run on paged attention: {failure}") from failure
    if not error <= TOLERANCE[model.dtype]:  # NaN fails too
        raise SetupError(f"{name} gives other logits on paged attention (by {error:.2g}): it cannot be served yet")
    return shapes


def _compare(model: PreTrainedModel, block_size: int) -> tuple[float, list[LayerShape]]:
    """The largest difference of logits, as a share of the largest logit."""
    vocab_size = model.config.get_text_config().vocab_size
    ids = torch.arange(2 * NUM_TOKENS, device=model.device).view(2, -1) * 7919 % vocab_size  # any spread of ids will do
    expected = model(input_ids=ids, use_cache=False).logits.float()  # [2, NUM_TOKENS, V]
    shapes = _probe(model, ids[:1])
    pool = KVPool(shapes, 2 * -(-NUM_TOKENS // block_size), block_size, model.dtype, model.device)
    errors = []
    for number, position, found in _paged(model, pool, ids.tolist()):
        wanted = expected[number, position]
        errors.append((found.float() - wanted).abs().max() / wanted.abs().max())
    return torch.stack(errors).max().item(), shapes


def _probe(model: PreTrainedModel, ids: torch.Tensor) -> list[LayerShape]:
    """What each layer keeps; sets our attention. Raises SetupError where the model does not call it in each layer."""
    name = type(model).__name__
    model.set_attn_implementation(attention.NAME)
    probe = attention.Probe()
    last = torch.tensor([ids.shape[1] - 1], device=ids.device)
    attention.forward(model, ids, torch.arange(ids.shape[1], device=ids.device).unsqueeze(0), last, probe)
    num_layers = model.config.get_text_config().num_hidden_layers
    if sorted(probe.shapes) != list(range(num_layers)):
        raise SetupError(
            f"{name} reached our attention in {len(probe.shapes)} of {num_layers} layers: it cannot be served yet"
        )
    return [probe.shapes[layer] for layer in range(num_layers)]


def _paged(model: PreTrainedModel, pool: KVPool, ids: list[list[int]]) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Sequence, position and logits [V] of each prompt's end and each decode, scheduled as the engine would."""
    num_blocks = len(ids) * -(-NUM_TOKENS // pool.block_size)
    scheduler = Scheduler(BlockPool(num_blocks), pool.block_size, len(ids), STEP_TOKENS, b"")
    for number, row in enumerate(ids):
        job = WorkerJob(b"", number, 1)
        scheduler.add(Sequence(job, row[: NUM_TOKENS - NUM_DECODES], [], Params(max_tokens=NUM_DECODES + 1)))
    while scheduler.waiting or scheduler.running:
        plan = scheduler.schedule()
        batch = pack(plan, pool, model.device)
        logits = attention.forward(model, batch.input_ids, batch.position_ids, batch.logit_rows, batch.step)
        for sequence, _, end in plan.prefills:
            scheduler.advance(sequence, end)
        for sequence, row_logits in zip(batch.sampled, logits, strict=True):
            number, count = sequence.job.job, len(sequence.ids)
            yield number, count - 1, row_logits
            scheduler.advance(sequence, count)
            if count == NUM_TOKENS:
                scheduler.remove(sequence)
            else:
                scheduler.append(sequence, ids[number][count])
