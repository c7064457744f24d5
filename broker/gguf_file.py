"""The head of a GGUF file: how large its model is once its weights are widened, and where streams end. Of the contract.

Read by our own few lines: the gguf package's reader takes 6 s of one core for a vocabulary of 152,000 tokens. Must not
know how a model is loaded.
"""

import struct
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

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


class Tensor(NamedTuple):
    """Where one is, and how it is kept."""

    num_elements: int
    kind: int
    """ggml's number of its type."""
    start: int
    """Byte in the file."""


class Header(NamedTuple):
    """What the head of a file says."""

    architecture: str
    """As llama.cpp calls it."""
    tensors: list[Tensor]
    end_ids: list[int]
    """Tokens that end a stream."""

    @property
    def num_parameters(self) -> int:
        return sum(tensor.num_elements for tensor in self.tensors)


def read_header(path: Path) -> Header:
    """Raises SetupError for what is no GGUF file, and for one part of several."""
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
        alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
        start = -(-self._at // alignment) * alignment
        ends = [values[key] for name in END_KEYS if (key := f"tokenizer.ggml.{name}_token_id") in values]
        return Header(values["general.architecture"], [one._replace(start=start + one.start) for one in tensors], ends)

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

    def _tensor(self) -> Tensor:
        """Its start is counted from where the first one's is."""
        self._string()
        num_dimensions = self._take("I")
        if num_dimensions > MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {num_dimensions} dimensions")
        count = 1
        for _ in range(num_dimensions):
            count *= self._take("Q")
        return Tensor(count, self._take("I"), self._take("Q"))
