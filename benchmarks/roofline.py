"""What the device could do at best, and how much of it a step uses.

The device's own speed is measured in the run that it is compared with. A decode step must read all weights but unused
embedding rows and all keys and values once; it must do two operations for each weight and token, and four for each
element of a key that a query meets. What attention, norms and copies do beyond that is overhead, not work.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

COPY_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}
"""Far beyond the cache that one process gets: some tens of MB of a server's L3, 50 MB of an H200's L2."""
ROW_BYTES = 32 << 10
"""Of the matrix that is copied, and multiplied with one of its rows."""
MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}
"""Square matrices large enough for full speed: 8192 is where an H200's rate levels off."""
REPEATS = 7
"""The median of so many."""


class Device(NamedTuple):
    """Measured speeds."""

    bytes_per_s: float
    """Of a copy, reading and writing counted, or of a matrix times a vector, whichever moves more."""
    flop_per_s: float
    """Of a square matrix product in the model's dtype."""


class Work(NamedTuple):
    """What a model must do, whoever does it."""

    weight_bytes: int
    """Read in each step."""
    num_weights: int
    """Of the layers: each takes part in a product with each token."""
    num_head_weights: int
    """Of the output projection: for sampled tokens only."""
    kv_bytes: int
    """Keys and values of one token in all layers."""
    attention_width: int
    """Query heads times head dimension, summed over layers."""

    def decode_bytes(self, batch: int, context: int) -> float:
        return self.weight_bytes + batch * context * self.kv_bytes

    def decode_flop(self, batch: int, context: int) -> float:
        return batch * (2 * (self.num_weights + self.num_head_weights) + 4 * context * self.attention_width)

    def prefill_flop(self, num_tokens: int) -> float:
        """One prompt: causal attention meets half of all pairs."""
        attention = 4 * num_tokens * num_tokens / 2 * self.attention_width
        return 2 * num_tokens * self.num_weights + 2 * self.num_head_weights + attention


def untuned(model: Any) -> Any:
    """A model to count: the same, or what it was before a worker compiled it at load, on no device."""
    import torch
    from transformers import AutoModelForCausalLM

    if model.get_output_embeddings() is not None:  # compiled ones do not lead to their layers any more
        return model
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model.config, dtype=model.config.dtype)  # type: ignore[no-untyped-call]


def work_of(model: Any) -> Work:
    """Count a decoder's weights. `model`: a transformers model of one stack of layers that all keep all tokens."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings().weight
    table = model.get_input_embeddings().weight
    everything = {id(one): one for one in model.parameters()}.values()
    all_bytes = sum(one.numel() * one.element_size() for one in everything)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    tied = head is table or head.data_ptr() == table.data_ptr() != 0  # 0 on no device
    outside = table.numel() + (0 if tied else head.numel())
    return Work(
        weight_bytes=all_bytes - (0 if tied else table.numel() * table.element_size()),
        num_weights=sum(one.numel() for one in everything) - outside,
        num_head_weights=head.numel(),
        kv_bytes=2 * config.num_hidden_layers * kv_heads * head_dim * model.dtype.itemsize,
        attention_width=config.num_hidden_layers * config.num_attention_heads * head_dim,
    )


def measure_device(device: str, dtype: str, threads: int) -> Device:
    """This device's speeds now; `threads` are those of a CPU."""
    import torch

    torch.set_num_threads(threads)
    kind = torch.device(device).type
    matrix = torch.ones(COPY_BYTES[kind] // ROW_BYTES, ROW_BYTES // 4, device=device)
    copy_s = _median_s(device, matrix.clone().copy_, matrix)
    read_s = _median_s(device, torch.mv, matrix, matrix[0])
    size = MATRIX_SIZE[kind]
    square = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    product_s = _median_s(device, torch.mm, square, square)
    return Device(max(2 * matrix.nbytes / copy_s, matrix.nbytes / read_s), 2 * size**3 / product_s)


def synchronize(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def _median_s(device: str, work: Callable[..., object], *operands: Any) -> float:
    times_s = []
    for _ in range(REPEATS + 1):  # the first is not counted
        synchronize(device)
        start_s = time.perf_counter()
        work(*operands)
        synchronize(device)
        times_s.append(time.perf_counter() - start_s)
    return median(times_s[1:])
