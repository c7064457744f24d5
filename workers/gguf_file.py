"""GGUF files: what transformers does not tell of one before it loads it, or not at all.

Only the head of the file is read, by our own few lines: the gguf package's reader takes 12 s for a vocabulary of
152,000 tokens. What is not served, or not whole, is refused with words. Imports no torch, and knows of no model.
"""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from tokenyard.broker.errors import SetupError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""1 counted in 32 bits; no file of it is around (transformers reads the same two)."""
STRING, ARRAY = 8, 9
NUMBERS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Types of values, as struct spells them (ggml's gguf.md)."""
MAX_DIMENSIONS = 4
"""GGML_MAX_DIMS."""
DEFAULT_ALIGNMENT = 32
END_KEYS = ("eos", "eot", "eom")
"""Ends of text, of a turn and of a message; llama.cpp stops at each, transformers reads the first."""
NEEDED = ("gguf", "accelerate")
"""Packages that transformers asks for."""


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


class Header(NamedTuple):
    """What the head of a file says."""

    architecture: str
    """As llama.cpp calls it."""
    num_parameters: int
    end_ids: list[int]


def read_header(path: Path) -> Header:
    """Raises SetupError for what is no whole GGUF file."""
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        raise SetupError(f"a GGUF file needs {' and '.join(missing)}: pip install 'tokenyard[gguf]'")
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as blob:
            return _Reader(blob).read()
    except OSError as error:
        raise SetupError(f"{path.name}: {error.strerror}") from error
    except (struct.error, ValueError, TypeError, LookupError, ArithmeticError) as error:  # no empty file can be mapped
        raise SetupError(f"{path.name} is no GGUF file, or broken: {error}") from error
    except SetupError as error:
        raise SetupError(f"{path.name}: {error}") from error


class _Reader:
    """Walks over a file's head."""

    def __init__(self, blob: mmap) -> None:
        self._blob = blob
        self._at = 0

    def read(self) -> Header:
        if self._blob[:4] != MAGIC:
            raise SetupError("it is no GGUF file")
        self._at = 4
        version = self._take("I")
        if version not in VERSIONS:
            raise SetupError(f"GGUF version {version} is not served, only {' and '.join(map(str, VERSIONS))}")
        num_tensors, num_values = self._take("Q"), self._take("Q")
        values = dict(self._pair() for _ in range(num_values))
        if values.get("split.count", 1) > 1:
            number = f"{values.get('split.no', 0) + 1} of {values['split.count']}"
            raise SetupError(f"it is part {number}: join the parts with llama.cpp's llama-gguf-split --merge")
        tensors = [self._tensor() for _ in range(num_tensors)]
        self._check_length(tensors, values.get("general.alignment", DEFAULT_ALIGNMENT))
        ends = [values[key] for name in END_KEYS if (key := f"tokenizer.ggml.{name}_token_id") in values]
        return Header(values["general.architecture"], sum(count for count, _, _ in tensors), ends)

    def _check_length(self, tensors: list[tuple[int, int, int]], alignment: int) -> None:
        """Whether all tensors are there: a download that broke off leaves a file that is too short."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        end = start = -(-self._at // alignment) * alignment
        for count, kind, offset in tensors:
            per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            end = max(end, start + offset + count // per_block * block_bytes)
        if end > len(self._blob):
            raise SetupError(f"it is cut short: it has {len(self._blob):,} of {end:,} bytes")

    def _take(self, kind: str) -> Any:
        (value,) = struct.unpack_from(f"<{kind}", self._blob, self._at)
        self._at += struct.calcsize(f"<{kind}")
        return value

    def _string(self) -> str:
        start = self._at + 8
        self._at = start + struct.unpack_from("<Q", self._blob, self._at)[0]
        if self._at > len(self._blob):
            raise ValueError("a text in it ends beyond its end")
        return self._blob[start : self._at].decode()

    def _pair(self) -> tuple[str, Any]:
        key, kind = self._string(), self._take("I")
        return key, self._value(kind)

    def _value(self, kind: int) -> Any:
        """A number or a text; of an array only its length, as vocabularies are long."""
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._take(NUMBERS[kind])
        kind, count = self._take("I"), self._take("Q")
        if kind == STRING:
            for _ in range(count):
                self._at += 8 + struct.unpack_from("<Q", self._blob, self._at)[0]
        else:
            self._at += count * struct.calcsize(f"<{NUMBERS[kind]}")
        return count

    def _tensor(self) -> tuple[int, int, int]:
        """Elements, type and place of one."""
        self._string()
        num_dimensions = self._take("I")
        if num_dimensions > MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {num_dimensions} dimensions")
        count = 1
        for _ in range(num_dimensions):
            count *= self._take("Q")
        return count, self._take("I"), self._take("Q")
