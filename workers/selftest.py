"""Before a model is served: does it give the same logits in our lanes as by itself?

Two sequences side by side, prefilled in chunks and decoded for a few tokens, against one forward without any cache. It
compares logits, not tokens, as near-ties flip. It also finds out what is kept of a token.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from tokenyard.broker.errors import SetupError, first_line
from tokenyard.broker.params import Params
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers import attention
from tokenyard.workers.blocks import BlockPool
from tokenyard.workers.kernels import FAILURES, choose, compile_failures
from tokenyard.workers.kv import LayerShape
from tokenyard.workers.plain import WAYS, PlainModel, Prefill, State, Way, num_bytes
from tokenyard.workers.quantization import is_quantized
from tokenyard.workers.scheduler import Scheduler, Sequence

NUM_TOKENS = 40
NUM_DECODES = 3
STEP_TOKENS = 24
"""Tokens of each of the two sequences, decoded ones, and those of one step: so that there are several blocks of 16, a
prompt in two chunks, a step with two prompts and one with a decode beside a prompt."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference allowed, as a share of the logits' largest magnitude: some 25 units of the dtype's last place (8
bits: bfloat16, 11: float16), over many layers; a wrong mask or position moves logits by their own magnitude."""
QUANTIZED_TOLERANCE = 0.1
"""For weights in fewer bits: some ways (LLM.int8) round activations by what else is in the batch, which moved the demo
model's logits by 0.023."""
Found = tuple[int, int, torch.Tensor]
"""Number of a sequence, position, logits [V] there."""


class Footprint(NamedTuple):
    """What one sequence takes of memory on the plain lane."""

    token_bytes: int
    sequence_bytes: int
    """However long it is."""


NO_FOOTPRINT = Footprint(0, 0)


def tolerance(model: PreTrainedModel) -> float:
    """How far this model's logits may differ in our lanes."""
    return max(TOLERANCE[model.dtype], QUANTIZED_TOLERANCE if is_quantized(model) else 0.0)


@torch.inference_mode()
def paged_selftest(model: PreTrainedModel, block_size: int) -> list[LayerShape]:
    """Leave the model set to our attention and return its layers' shapes; raises SetupError where it does not fit."""
    name = type(model).__name__
    try:
        ids = _ids(model)
        expected = _expected(model, ids)
        shapes = _probe(model, ids[:1])
        error = _error(expected, _paged(model, shapes, block_size, ids.tolist()))
    except compile_failures() as failure:  # FAILURES among them
        raise SetupError(f"{name} cannot run on paged attention: {first_line(failure)}") from failure
    if not error <= tolerance(model):  # NaN fails too
        raise SetupError(f"{name} gives other logits on paged attention (by {error:.2g})")
    return shapes


@torch.inference_mode()
def paged_logits(model: PreTrainedModel, shapes: list[LayerShape], block_size: int) -> torch.Tensor:
    """Float32 logits [R, V] of the self-test's steps, to be compared after the model has changed."""
    return torch.stack([logits.float() for _, _, logits in _paged(model, shapes, block_size, _ids(model).tolist())])


@torch.inference_mode()
def plain_selftest(model: PreTrainedModel, may_chunk: bool) -> tuple[Way, Footprint]:
    """The way in which the model, on its own attention, gives its own logits; raises SetupError if there is none."""
    name = type(model).__name__
    words = ""
    for way in [one for one in WAYS if may_chunk or one.prefill is not Prefill.CHUNKS]:
        try:
            ids = _ids(model)
            plain = PlainModel(model, way)
            error = _error(_expected(model, ids), _plain(plain, ids.tolist()))
            if error <= tolerance(model):
                return way, _footprint(plain, ids[0].tolist())
            words = f"it gives other logits (by {error:.2g})"
        except FAILURES as failure:
            words = first_line(failure)
    raise SetupError(f"{name} cannot run token by token: {words}")


def _ids(model: PreTrainedModel) -> torch.Tensor:
    """Two sequences [2, NUM_TOKENS]. Any spread of ids will do, but no padding: for some it has no position."""
    config = model.config.get_text_config(decoder=True)
    ids = torch.arange(2 * NUM_TOKENS, device=model.device).view(2, -1) * 7919 % config.vocab_size
    padding = getattr(config, "pad_token_id", None)
    return ids if padding is None else torch.where(ids == padding, (padding + 1) % config.vocab_size, ids)


def _expected(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits  # [2, NUM_TOKENS, V]
    return logits.float()


def _error(expected: torch.Tensor, all_found: Iterable[Found]) -> float:
    """The largest difference of logits, as a share of the largest logit."""
    errors = []
    for number, position, found in all_found:
        wanted = expected[number, position]
        errors.append((found.float() - wanted).abs().max() / wanted.abs().max())
    return float(torch.stack(errors).max())


def _probe(model: PreTrainedModel, ids: torch.Tensor) -> list[LayerShape]:
    """What each layer keeps; sets our attention. Raises LookupError where the model does not call it in each layer."""
    model.set_attn_implementation(attention.NAME)
    probe = attention.Probe()
    last = torch.tensor([ids.shape[1] - 1], device=ids.device)
    attention.forward(model, ids, torch.arange(ids.shape[1], device=ids.device).unsqueeze(0), last, probe)
    num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    if sorted(probe.shapes) != list(range(num_layers)):
        raise LookupError(f"it was reached in {len(probe.shapes)} of {num_layers} layers")
    return [probe.shapes[layer] for layer in range(num_layers)]


def _paged(model: PreTrainedModel, shapes: list[LayerShape], block_size: int, ids: list[list[int]]) -> Iterator[Found]:
    """The logits of each prompt's end and each decode, scheduled as the engine would."""
    num_blocks = len(ids) * -(-NUM_TOKENS // block_size)
    kernels = choose(shapes, model.dtype, model.device)
    pool = kernels.make_pool(shapes, num_blocks, block_size, model.dtype, model.device)
    scheduler = Scheduler(BlockPool(num_blocks), block_size, len(ids), STEP_TOKENS, b"")
    for number, row in enumerate(ids):
        job = WorkerJob(b"", number, 1)
        scheduler.add(Sequence(job, row[: NUM_TOKENS - NUM_DECODES], [], Params(max_tokens=NUM_DECODES + 1)))
    while scheduler.waiting or scheduler.running:
        plan = scheduler.schedule()
        batch = kernels.pack(plan, pool, model.device)
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


def _plain(model: PlainModel, ids: list[list[int]]) -> Iterator[Found]:
    """The logits of each prompt's end and each decode, the sequences in turn: nothing may be kept outside of states."""
    num_prompt = NUM_TOKENS - NUM_DECODES
    ends = [*range(num_prompt, NUM_TOKENS + 1)]
    if model.way.prefill is Prefill.CHUNKS:
        ends = [STEP_TOKENS, *ends]
    states: list[State | None] = [None] * len(ids)
    start = 0
    for end in ends:
        for number, row in enumerate(ids):
            logits, states[number] = model.forward(row[start:end], start, states[number])
            if model.way.prefill is not Prefill.ANEW and states[number] is None:
                raise LookupError("it keeps nothing of a sequence")
            yield number, end - 1, logits
        start = 0 if model.way.prefill is Prefill.ANEW else end


def _footprint(model: PlainModel, ids: list[int]) -> Footprint:
    """From states of two lengths; what does not grow belongs to the sequence."""
    half = len(ids) // 2
    short, long = (num_bytes(model.forward(ids[:count], 0, None)[1]) for count in (half, len(ids)))
    token_bytes = max(0, long - short) // (len(ids) - half)
    return Footprint(token_bytes, max(0, short - half * token_bytes))
