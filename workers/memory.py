"""How many KV blocks a worker may have.

Must not know of the model beyond what its layers keep of a token.
"""

import logging
from typing import NamedTuple

import psutil
import torch
from transformers import PreTrainedModel

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import KV_MEMORY
from tokenyard.workers import attention
from tokenyard.workers.batch import GROUP_BYTES
from tokenyard.workers.plain import PlainModel

log = logging.getLogger(__name__)

CPU_BYTES = 512 << 20
"""Default on CPU: modest, as the machine has other work (transformers serve takes 60 % of RAM)."""
CUDA_SHARE = 0.9
"""Default on CUDA: of what is free, less what a step needs; the rest is for fragmentation and long prefills."""
SAMPLER_COPIES = 6
"""Tensors [R, V] of float32 that live at once in the sampler at the most: raw, scores, noisy rows and their filters."""
GRAPH_BYTES = 16 << 20
"""Of one CUDA graph, in the driver: vLLM reports some 0.6 GiB for 67 sizes; not measured here."""
MEASURE_STEPS = 256
"""Between two looks at the memory in use: one takes some 20 µs, and the pool is allocated once."""
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


class StepBytes(NamedTuple):
    """What steps take beside weights and KV pool; 0 on CPU."""

    total: int = 0
    graphs: int = 0
    """Of these, what all graphs share."""


def step_bytes(
    model: PreTrainedModel, num_tokens: int, num_rows: int, plain: PlainModel | None = None, num_graphs: int = 0
) -> StepBytes:
    """For steps of the largest size, found by running one.

    `plain`: the model as the plain lane runs it, where that serves it. `num_graphs`: of decodes with up to `num_rows`.
    """
    if model.device.type != "cuda":
        return StepBytes()
    before = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    with torch.inference_mode():
        if plain is not None:
            row = plain.forward([0] * num_tokens, 0, None)[0]
        else:
            ids = torch.zeros(1, num_tokens, dtype=torch.int64, device=model.device)
            positions = torch.arange(num_tokens, device=model.device).unsqueeze(0)
            row = attention.forward(model, ids, positions, positions[0, :num_rows], attention.Probe())[0]
    eager = torch.cuda.max_memory_allocated(model.device) - before + GROUP_BYTES["cuda"]
    sampling = SAMPLER_COPIES * num_rows * row.numel() * torch.float32.itemsize
    if not num_graphs:
        return StepBytes(eager + sampling)
    # all graphs share the memory of the largest, which is less than a full step's, and leave their logits in one place
    logits = num_rows * row.numel() * row.element_size()
    return StepBytes(2 * eager + sampling + logits + num_graphs * GRAPH_BYTES, eager)


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses now, what our allocator keeps in reserve included."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def used_bytes(device: torch.device) -> int:
    """What this process has taken: of the device by torch's allocator, or of the machine where that is the device."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return psutil.Process().memory_info().rss


class Usage:
    """Of a device's memory, looked at now and then."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._num_bytes = 0
        self._look_at = 0
        """In steps."""

    def at(self, step: int) -> int:
        """As it is now, or was some steps before this one."""
        if step >= self._look_at:
            self._look_at = step + MEASURE_STEPS
            self._num_bytes = used_bytes(self._device)
        return self._num_bytes


def parse_kv_memory(text: str, device: torch.device, step: int = 0, num_sharers: int = 1) -> int:
    """Bytes that `--kv-memory` allows; empty is the default. Raises SetupError for anything unreadable."""
    if not text and device.type != "cuda":
        return CPU_BYTES
    if not text:
        free = free_bytes(device)
        if num_sharers > 1:
            free = shared_bytes(free, torch.cuda.mem_get_info(device)[1], used_bytes(device), num_sharers)
        return max(0, int(free * CUDA_SHARE) - step)
    match = KV_MEMORY.fullmatch(text.strip())
    if match is None:
        raise SetupError(f"--kv-memory {text}: give bytes with a unit (1GiB, 500MB) or a share of what is free (40%)")
    if match[2] != "%":
        return int(float(match[1]) * UNITS[match[2].upper()])
    if not 0 < float(match[1]) <= 100:
        raise SetupError(f"--kv-memory {text}: a share must be above 0% and at most 100%")
    return int(free_bytes(device) * float(match[1]) / 100)


def shared_bytes(free: int, total: int, used: int, num_sharers: int) -> int:
    """For one of several workers of a device: of an even part of it, what it has not taken, as far as that is free."""
    return min(free, total // num_sharers - used)


class Budget(NamedTuple):
    """What a worker may have at once."""

    num_blocks: int
    num_seqs: int


def plan_memory(
    token_bytes: int,
    device: torch.device,
    *,
    block_size: int,
    context_length: int,
    max_num_seqs: int,
    kv_memory: str,
    num_sharers: int = 1,
    step: int = 0,
    sequence_bytes: int = 0,
) -> Budget:
    """The pool's size: what memory allows, but no more than all sequences at full length could use.

    `num_sharers`: workers that share the device; `step`: bytes that a step takes beside the pool; `sequence_bytes`:
    what a sequence keeps however long it is. Such states get at most half of the memory where tokens take some too.
    Raises SetupError where nothing useful fits.
    """
    per_block = token_bytes * block_size
    allowed = parse_kv_memory(kv_memory, device, step, num_sharers)
    num_seqs = max_num_seqs
    if sequence_bytes:
        num_seqs = min(num_seqs, allowed // (2 if per_block else 1) // sequence_bytes)
        log.info("states: %d of at most %d bytes, one for each sequence that runs", num_seqs, sequence_bytes)
    useful = num_seqs * -(-context_length // block_size)
    num_blocks = min((allowed - num_seqs * sequence_bytes) // per_block, useful) if per_block else useful
    if num_blocks < 2:
        state = f" beside a state of {sequence_bytes:,}" if sequence_bytes else ""
        raise SetupError(
            f"KV memory of {allowed:,} bytes holds no two blocks of {per_block:,} bytes{state}; raise --kv-memory"
        )
    log.info(
        "KV pool: %d blocks of %d tokens (%.0f MiB of %.0f MiB allowed), %d tokens in all, context %d",
        num_blocks,
        block_size,
        num_blocks * per_block / (1 << 20),
        allowed / (1 << 20),
        num_blocks * block_size,
        context_length,
    )
    return Budget(num_blocks, num_seqs)
