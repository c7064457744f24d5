"""What transformers needs to read a GGUF file whole, and soon. Must not know of models."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tokenyard.broker.errors import SetupError
from tokenyard.broker.gguf_file import Header, read_header

NEEDED = ("gguf", "accelerate")
"""Packages that transformers asks for."""


def open_gguf(path: Path) -> Header:
    """The head of a file that is whole. Raises SetupError: a download that broke off leaves one that is too short."""
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        raise SetupError(f"a GGUF file needs {' and '.join(missing)}: pip install 'tokenyard[gguf]'")
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    header = read_header(path)
    end = 0
    for tensor in header.tensors:
        try:
            per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
        except (ValueError, KeyError) as error:
            raise SetupError(f"{path.name} holds tensors of type {tensor.kind}, which gguf does not know") from error
        end = max(end, tensor.start + tensor.num_elements // per_block * block_bytes)
    held = path.stat().st_size
    if end > held:
        raise SetupError(f"{path.name}: it is cut short: it has {held:,} of {end:,} bytes")
    return header


@contextmanager
def quick_reading(readers: dict[Any, Any]) -> Iterator[None]:
    """Within, transformers reads a file once, into `readers`, and by way of a plain array.

    It would read it twice; and numpy makes a slice of a memmap slow, of which a vocabulary of 152,000 tokens takes a
    million: 5.7 s of one core, instead of 1.5.
    """
    import gguf
    import numpy

    data = property(lambda self: self.plain, lambda self, value: setattr(self, "plain", numpy.asarray(value)))
    quick = type("Quick", (gguf.GGUFReader,), {"data": data})

    def read(path: Any) -> Any:
        if path not in readers:
            readers[path] = quick(path)
        return readers[path]

    with patch.object(gguf, "GGUFReader", read):
        yield
