"""What went wrong when a model's files were read, as one line for the user.

transformers raises whatever its parts raise. Where that does not name the file at fault, the files are looked at, once
something has failed: a load that goes well pays nothing for it.
"""

import json
import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import CONFIG_NAME

from tokenyard.broker.errors import SetupError
from tokenyard.broker.hub import FULL_DISK
from tokenyard.workers.kernels import FAILURES

RAISED = (
    *(OSError, ImportError, MemoryError, ArithmeticError, EOFError, pickle.UnpicklingError, struct.error),
    *(*FAILURES, SafetensorError, StrictDataclassError),
)
"""What a wrong or broken model makes transformers raise."""
TOLD = (OSError, ImportError, ValueError, RuntimeError, MemoryError, SafetensorError, StrictDataclassError)
"""Of these, what is meant for people; the others have words for programmers only."""
PACKAGE_OF = {"torchao": "'tokenyard[quantization]'"}
"""What to install, by the module that is missing, where that says too little."""
INDEX = ".index.json"
MAX_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""


@contextmanager
def explained(directory: Path | None = None) -> Iterator[None]:
    """Whatever is raised within while files are read is a SetupError with words; `directory` has the files."""
    try:
        yield
    except SetupError:
        raise
    except RAISED as error:
        raise SetupError(f"it cannot be loaded: {words_for(error, directory)}") from error


def words_for(error: BaseException, directory: Path | None) -> str:
    """One line that names the cause."""
    text = str(error).strip()
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return f"no space is left on the disk of {error.filename or 'the Hub cache'}"
    if "trust_remote_code=True" in text:
        return "it comes with code of its own, which runs only with --trust-remote-code"
    if "Unrecognized configuration class" in text:
        return "transformers has no causal language model of its kind"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs a package that is not installed: pip install {PACKAGE_OF.get(error.name, error.name)}"
    if directory is not None and (words := find_fault(directory)):
        return words
    if isinstance(error, MemoryError) and not text:
        return "there is not enough memory"
    first = text.split("\n")[0]
    if first and isinstance(error, TOLD):
        return first
    return f"transformers makes no sense of its files ({': '.join(filter(None, [type(error).__name__, first]))})"


def find_fault(directory: Path) -> str:
    """What is wrong with the files of a model, if it can be seen from outside; else nothing."""
    try:
        for path in sorted(directory.glob("*.json")):
            if words := _json_fault(path):
                return f"{path.name} {words}"
        for path in sorted(directory.glob("*.safetensors")):
            if words := _weights_fault(path):
                return f"{path.name} {words}"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def _json_fault(path: Path) -> str:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        return f"is no JSON: {error}"
    if path.name == CONFIG_NAME and not isinstance(value, dict):
        return "is no JSON object"
    return _index_fault(path, value) if path.name.endswith(INDEX) else ""


def _index_fault(path: Path, index: Any) -> str:
    try:
        names = sorted(set(index["weight_map"].values()))
        missing = [name for name in names if not (path.parent / name).is_file()]
    except (TypeError, KeyError, AttributeError):
        return "is no index of weights"
    return f"names {', '.join(missing)}, which is not there" if missing else ""


def _weights_fault(path: Path) -> str:
    """By its header, which says how long the file must be."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                return "is no safetensors file"
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        except (struct.error, ValueError, TypeError, LookupError, AttributeError):
            return "is cut short or no safetensors file"
    wanted = 8 + length + end
    return f"is cut short: it has {size:,} of {wanted:,} bytes" if size < wanted else ""
