"""`--quantization`: weights in fewer bits, made at load by transformers with torchao or bitsandbytes.

Checkpoints that are quantized already need no option: transformers loads them as they are. What does not fit the
device, the dtype or what is installed is refused with words. Must not know how a model is loaded otherwise.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig, TorchAoConfig

from tokenyard.broker.errors import SetupError

CPU_GROUP, CUDA_GROUP = 32, 128
"""Weights that share a scale in int4. CPU: as llama.cpp's 4-bit formats; CUDA: torchao's default for its kernel."""
INT4_CAPABILITY = (8, 0)
"""Ampere: torchao's int4 kernel is written for its tensor cores."""
FP8_CAPABILITY = (9, 0)
"""Hopper: products of fp8 rows with a scale each (torch._scaled_mm)."""


class Way(NamedTuple):
    """One value of `--quantization`."""

    package: str
    config: Callable[[torch.device, torch.dtype], Any]
    """transformers' configuration; raises SetupError where it does not fit."""


def quantize(name: str, device: torch.device, dtype: torch.dtype, config: PreTrainedConfig) -> dict[str, Any]:
    """What from_pretrained must be told; for the empty name, little. Raises SetupError."""
    is_quantized_already = getattr(config, "quantization_config", None) is not None
    if not name:
        # on a GPU its packed weights go there at once: not every kind of them can be moved
        at_once = is_quantized_already and device.type == "cuda" and find_spec("accelerate") is not None
        return {"device_map": {"": device}} if at_once else {}
    if name not in WAYS:
        raise SetupError(f"--quantization {name}: choose one of {', '.join(WAYS)}")
    if is_quantized_already:
        raise SetupError(f"--quantization {name}: this checkpoint is quantized already; leave the option out")
    way = WAYS[name]
    needed = [way.package] if device.type == "cpu" and way.package == "torchao" else [way.package, "accelerate"]
    if missing := [package for package in needed if find_spec(package) is None]:
        raise SetupError(f"--quantization {name} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    # on a GPU, weights are quantized there one by one, so that the whole is never on it in full width
    place = {} if device.type == "cpu" and way.package == "torchao" else {"device_map": {"": device}}
    return {"quantization_config": way.config(device, dtype), **place}


def is_quantized(model: torch.nn.Module) -> bool:
    """Whether a loaded model's weights are packed in a way that only its own modules can read."""
    return getattr(getattr(model, "config", None), "quantization_config", None) is not None


def _int8(device: torch.device, dtype: torch.dtype) -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _int4(device: torch.device, dtype: torch.dtype) -> TorchAoConfig:
    from torchao.quantization import Int4WeightOnlyConfig, IntxWeightOnlyConfig, MappingType, PerGroup

    if device.type == "cpu":  # no packed kernel here: 4 bits of precision in bytes
        grid = {"granularity": PerGroup(CPU_GROUP), "mapping_type": MappingType.ASYMMETRIC}
        return TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=torch.int4, **grid))  # type: ignore[attr-defined]
    _need_capability("int4", device, INT4_CAPABILITY)
    if dtype != torch.bfloat16:
        raise SetupError("--quantization int4 computes in bfloat16 on a GPU: give --dtype bfloat16")
    packing = "tile_packed_to_4d"
    return TorchAoConfig(Int4WeightOnlyConfig(group_size=CUDA_GROUP, int4_packing_format=packing))


def _fp8(device: torch.device, dtype: torch.dtype) -> TorchAoConfig:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    _need_capability("fp8", device, FP8_CAPABILITY)
    if dtype != torch.bfloat16:
        raise SetupError("--quantization fp8 gives bfloat16: give --dtype bfloat16")
    return TorchAoConfig(Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))


def _bnb_8bit(device: torch.device, dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]


def _bnb_4bit(device: torch.device, dtype: torch.dtype) -> BitsAndBytesConfig:
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return BitsAndBytesConfig(**nf4)  # type: ignore[no-untyped-call]


def _need_capability(name: str, device: torch.device, least: tuple[int, int]) -> None:
    words = f"--quantization {name} needs an NVIDIA GPU of compute capability {least[0]}.{least[1]} or newer"
    if device.type != "cuda":
        raise SetupError(words)
    found = torch.cuda.get_device_capability(device)
    if found < least:
        raise SetupError(f"{words}; this one has {found[0]}.{found[1]}")


WAYS = {
    "int8": Way("torchao", _int8),
    "int4": Way("torchao", _int4),
    "fp8": Way("torchao", _fp8),
    "bnb-8bit": Way("bitsandbytes", _bnb_8bit),
    "bnb-4bit": Way("bitsandbytes", _bnb_4bit),
}
