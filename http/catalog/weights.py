"""How large a model is, from the headers of its safetensors or its GGUF file, and what its config.json says."""

from pathlib import Path
from typing import Any

import orjson

from tokenyard.broker.gguf_file import read_header
from tokenyard.broker.hub import CONFIG, PICKLED, local_weights

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, a little-endian integer."""
WIDENED_BYTES = 2
"""Of one weight of a GGUF file: a GPU, where there may be too little room, gets them as bfloat16."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound."""


def weight_bytes(folder: Path) -> int:
    """Of all tensors, 0 if there are none. Raises ValueError, or OSError, if files are missing or broken."""
    sizes = 0
    for name in local_weights(folder):
        path = folder / name
        if not path.is_file():
            raise ValueError(f"its weights {name} are missing")
        sizes += path.stat().st_size if name.endswith(PICKLED) else tensor_bytes(path)
    return sizes


def tensor_bytes(path: Path) -> int:
    """Of one file's tensors. Raises ValueError if it is no whole safetensors file."""
    held = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if length > min(MAX_HEADER_BYTES, held):
            raise ValueError(f"{path.name} is no safetensors file")
        try:
            header = orjson.loads(file.read(length))
            told = max((one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"), default=0)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name} is no safetensors file") from error
    if LENGTH_BYTES + length + told != held:
        raise ValueError(f"{path.name} is cut short: {held} bytes of {LENGTH_BYTES + length + told}")
    return int(told)


def widened_bytes(path: Path) -> int:
    """Of a GGUF file's weights, as they are once loaded. Raises SetupError, or OSError."""
    return max(path.stat().st_size, WIDENED_BYTES * read_header(path).num_parameters)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ValueError if it is no JSON object, or OSError."""
    try:
        config = orjson.loads((folder / CONFIG).read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"its {CONFIG} is no JSON") from error
    if not isinstance(config, dict):
        raise ValueError(f"its {CONFIG} holds no object")
    return config
