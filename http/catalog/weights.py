"""How much memory a model's weights take, from the headers of its files, or from what the Hub tells of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tokenyard.broker.gguf_file import read_header
from tokenyard.broker.hub import CONFIG, PICKLED, local_weights

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, a little-endian integer."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound."""
WIDTHS: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number of each dtype in which a model can be loaded."""
CPU_WIDTH = 4
"""What `auto` is on a CPU: float32."""
GPU_GGUF_WIDTH = 2
"""What `auto` is on a GPU for a GGUF file, which names no dtype: bfloat16."""
FLOATS: Mapping[str, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
FLOATS_8 = ("F8_E4M3", "F8_E5M2")
"""As safetensors calls its dtypes."""


class Weights(NamedTuple):
    """What a model's files hold."""

    size: int
    """Bytes of all tensors, as the files have them."""
    num_floats: int = 0
    """Numbers that become ones of the dtype in which the model is loaded; all others stay as they are."""
    float_bytes: int = 0
    """What those take in `size`."""
    num_floats_8: int = 0
    """Floats of 8 bits: a CPU gets them widened, too, a GPU as they are."""

    def in_memory(self, dtype: str, on_cpu: bool) -> int:
        """Bytes once loaded, if nothing is quantized meanwhile."""
        width = WIDTHS.get(dtype) or (CPU_WIDTH if on_cpu else None)
        if width is None:
            return self.size
        num_bytes = self.size - self.float_bytes + self.num_floats * width
        return num_bytes + self.num_floats_8 * (width - 1) if on_cpu else num_bytes


def weights_in(folder: Path, config: Mapping[str, Any]) -> Weights:
    """Of a directory. Raises ValueError, or OSError, if files are missing or broken."""
    found = []
    for name in local_weights(folder):
        path = folder / name
        if not path.is_file():
            raise ValueError(f"its weights {name} are missing")
        found.append(guessed(path.stat().st_size, config) if name.endswith(PICKLED) else tensors_in(path))
    return Weights(*map(sum, zip(*found, strict=True))) if found else Weights(0)


def tensors_in(path: Path) -> Weights:
    """Of one safetensors file. Raises ValueError if it is no whole one."""
    held = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if length > min(MAX_HEADER_BYTES, held):
            raise ValueError(f"{path.name} is no safetensors file")
        try:
            header = orjson.loads(file.read(length))
            header.pop("__metadata__", None)
            size, by_dtype = 0, dict.fromkeys((*FLOATS, *FLOATS_8), 0)
            for one in header.values():
                start, end = one["data_offsets"]
                size = max(size, end)
                if one["dtype"] in by_dtype:
                    by_dtype[one["dtype"]] += end - start
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name} is no safetensors file") from error
    if LENGTH_BYTES + length + size != held:
        raise ValueError(f"{path.name} is cut short: {held} bytes of {LENGTH_BYTES + length + size}")
    num_floats = sum(by_dtype[name] // width for name, width in FLOATS.items())
    return Weights(size, num_floats, sum(by_dtype[name] for name in FLOATS), sum(by_dtype[name] for name in FLOATS_8))


def guessed(size: int, config: Mapping[str, Any]) -> Weights:
    """Of files that cannot be looked into: all of them numbers of the config's dtype, unless they are packed."""
    if packed := config.get("quantization_config"):
        is_fp8 = isinstance(packed, dict) and packed.get("quant_method") == "fp8"
        return Weights(size, num_floats_8=size if is_fp8 else 0)
    nested = config.get("text_config")
    places = [config, nested if isinstance(nested, dict) else {}]
    named = next((one[key] for one in places for key in ("dtype", "torch_dtype") if one.get(key)), None)
    return Weights(size, size // WIDTHS.get(str(named), CPU_WIDTH), size)


def gguf_weights(path: Path) -> Weights:
    """Of a GGUF file. Raises SetupError, or OSError."""
    return widened(read_header(path).num_parameters)


def widened(num_parameters: int) -> Weights:
    """Of a GGUF file with so many weights: transformers makes floats of all."""
    return Weights(GPU_GGUF_WIDTH * num_parameters, num_parameters, GPU_GGUF_WIDTH * num_parameters)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ValueError if it is no JSON object, or OSError."""
    try:
        config = orjson.loads((folder / CONFIG).read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"its {CONFIG} is no JSON") from error
    if not isinstance(config, dict):
        raise ValueError(f"its {CONFIG} holds no object")
    return config
