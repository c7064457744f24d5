"""MODEL_SPEC, as the command line, tokenyard.toml and the wire spell what a worker is to serve: part of the contract.

Front, supervisor and worker read the same words, so they are parsed here once, and written here: `parse_spec` of
`format_spec` gives the same again. Of the disk only one thing is asked, whether something is a directory or a GGUF
file, for its name may hold `@` and commas. Whether the model exists is found out by whoever loads it.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenyard.broker.errors import SetupError

DEMO = "demo"
"""The source that stands for the bundled model."""
DEMO_DIR = Path(__file__).parents[1] / "workers" / "demo_model"
DEMO_ID = "tokenyard-demo"
"""What that is called by default."""
GGUF = ".gguf"
"""How files of that format are called."""
OFF = "off"
"""Of `quantization` and `speculate`: none for this model, where the whole pool has one."""
MAX_DRAFTS = 16
"""Of `speculate`: more tokens are hardly ever all right, and all are computed."""
MAX_DIGITS = 18
"""Of a whole number: below 2^63."""
KV_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[KMG]I?B|B|)", re.IGNORECASE)
"""A number of bytes, or a share of what is free."""


def _is_memory(text: str) -> bool:
    match = KV_MEMORY.fullmatch(text.strip())
    return match is not None and (match[2] != "%" or 0 < float(match[1]) <= 100)


def _is_speculate(text: str) -> bool:
    return text in (OFF, *(f"ngram:{count}" for count in range(1, MAX_DRAFTS + 1)))


class Option(NamedTuple):
    """What a key of the engine may be set to."""

    kind: type
    """str, int or bool."""
    words: str = ""
    """For people: what fits."""
    fits: Callable[[Any], bool] = lambda _: True


def _one_of(*values: str) -> Option:
    return Option(str, f"choose one of {', '.join(values)}", values.__contains__)


_COUNT = Option(int, "it must be at least 1", lambda value: value > 0)
_FLAG = Option(bool)

OPTIONS: Mapping[str, Option] = {
    "dtype": _one_of("auto", "float32", "bfloat16", "float16"),
    "quantization": _one_of(OFF, "int8", "int4", "fp8", "bnb-8bit", "bnb-4bit"),
    "max_model_len": _COUNT,
    "kv_memory": Option(str, "give bytes with a unit (1GiB, 500MB) or a share of what is free (40%)", _is_memory),
    "max_num_seqs": _COUNT,
    "max_num_batched_tokens": _COUNT,
    "threads": _COUNT,
    "eager": _FLAG,
    "compile": _FLAG,
    "speculate": Option(str, f"give ngram:K, K tokens to guess, from 1 to {MAX_DRAFTS}, or {OFF}", _is_speculate),
    "trust_remote_code": _FLAG,
    "step_timeout": _COUNT,
    "max_loras": Option(int, "it must be at least 0", lambda value: value >= 0),
    "max_lora_rank": _COUNT,
}
"""The engine's keys, which one model may set for itself; `tokenyard worker` has the same as options."""
KEYS = ("name", "replicas", "file", "pin", *OPTIONS)
"""All that may follow a MODEL."""


class SpecError(SetupError):
    """A spec that cannot be; `key` says which key is at fault, if it is one's."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(f"{key}: {words}" if key else words)
        self.key = key
        self.words = words


class ModelSpec(NamedTuple):
    """`MODEL[@REV][,KEY=VALUE ...]`: what to load and what to call it."""

    source: str
    """Hub name, local directory, GGUF file, or DEMO."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    names: list[str] = []
    """What requests may call it instead of its source; the first becomes its id. `name=` may be given several times."""
    replicas: int | None = None
    """Workers that load it; None: as many as the devices suggest."""
    file: str | None = None
    """Which GGUF file of its repository or directory."""
    pin: bool = False
    """Once loaded, it stays."""
    engine: Mapping[str, Any] = {}
    """OPTIONS, as far as they are given."""

    @property
    def called(self) -> list[str]:
        """What requests may call it: the names given, else its Hub name, or its directory's or file's own name."""
        if self.source == DEMO:
            return self.names or [DEMO_ID]
        if gguf := local_gguf(self.source):
            return self.names or [gguf.stem]
        directory = local_directory(self.source)
        return self.names or [directory.name if directory else self.source]


def local_directory(source: str) -> Path | None:
    """The directory that this source is, absolute; None for what must be a name on the Hub."""
    path = os.path.expanduser(source)
    return Path(path).resolve() if os.path.isdir(path) else None  # os.path: not even a null byte raises


def local_gguf(source: str) -> Path | None:
    """The GGUF file that this source is, absolute; None for all else."""
    path = os.path.expanduser(source)
    return Path(path).absolute() if path.lower().endswith(GGUF) and os.path.isfile(path) else None


def is_local(source: str) -> bool:
    """Whether it is a directory or file of this machine."""
    return local_directory(source) is not None or local_gguf(source) is not None


def check_option(key: str, value: Any) -> None:
    """Raise SetupError with words, without the key, where the engine's key cannot have this value."""
    option = OPTIONS[key]
    if type(value) is not option.kind:
        raise SetupError(f"{KINDS[option.kind]} belongs here, not {value!r}")
    if not option.fits(value):
        raise SetupError(f"{option.words}, not {value!r}")


KINDS: Mapping[type, str] = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
"""What a type is called before people."""


def parse_spec(text: str) -> ModelSpec:
    """Read one MODEL_SPEC. Raises SetupError naming the key at fault."""
    model, parts = _split(text)
    source, revision = model, ""
    if not is_local(model):
        source, at, revision = model.partition("@")
        if at and not revision:
            raise SetupError(f"model {text!r}: the revision after @ is missing")
    names: list[str] = []
    given: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if key not in KEYS:
            raise SetupError(f"model {text!r}: unknown key {key!r}; the keys are {', '.join(KEYS)}")
        if key in given:
            raise SetupError(f"model {text!r}: the key {key!r} is given twice")
        try:
            read = _read_value(key, value if equals else None)
        except SetupError as error:
            raise SetupError(f"model {text!r}: {key}: {error}") from error
        if key == "name":
            names.append(read)
        else:
            given[key] = read
    own = {key: given.pop(key) for key in ("replicas", "file", "pin") if key in given}
    spec = ModelSpec(source, revision or None, names, **own, engine=given)
    try:
        check_spec(spec)
    except SetupError as error:
        raise SetupError(f"model {text!r}: {error}") from error
    return spec


def check_spec(spec: ModelSpec) -> None:
    """Raise SpecError for what no MODEL_SPEC can say, or what has no meaning."""
    if not spec.source:
        raise SpecError("", "the model's name is missing")
    if not is_local(spec.source) and any(mark in spec.source for mark in "@,"):
        raise SpecError("source", f"{spec.source!r} is no directory; a revision is a key of its own")
    if spec.revision is not None:
        _check_revision(spec, spec.revision)
    for name in spec.names:
        _refuse_commas("name", name)
    if spec.replicas is not None and spec.replicas < 1:
        raise SpecError("replicas", "it must be at least 1")
    if spec.file is not None:
        _check_file(spec, spec.file)
    for key, value in spec.engine.items():
        try:
            check_option(key, value)
        except SetupError as error:
            raise SpecError(key, str(error)) from error


def format_spec(spec: ModelSpec) -> str:
    """The MODEL_SPEC that reads as this one."""
    parts = [f"{spec.source}@{spec.revision}" if spec.revision else spec.source]
    parts += [f"name={name}" for name in spec.names]
    parts += [f"replicas={spec.replicas}"] if spec.replicas is not None else []
    parts += [f"file={spec.file}"] if spec.file else []
    parts += ["pin"] if spec.pin else []
    for key in OPTIONS:
        if key in spec.engine:
            value = spec.engine[key]
            parts.append(key if value is True else f"{key}={str(value).lower() if value is False else value}")
    return ",".join(parts)


def _split(text: str) -> tuple[str, list[str]]:
    """The model and its keys: up to the last comma that leaves a directory or a file, else up to the first."""
    parts = text.split(",")
    for count in range(len(parts), 0, -1):
        if is_local(model := ",".join(parts[:count])):
            return model, parts[count:]
    return parts[0], parts[1:]


def _read_value(key: str, text: str | None) -> Any:
    """None: the key stands alone. Raises SetupError; whether the value fits is not asked yet."""
    kind = {"replicas": int, "pin": bool}.get(key) or (OPTIONS[key].kind if key in OPTIONS else str)
    if kind is bool:
        if text not in (None, "true", "false"):
            raise SetupError(f"true or false belongs here, not {text!r}")
        return text != "false"
    if not text:
        raise SetupError("a value is missing")
    if kind is int:
        if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
            raise SetupError(f"a whole number belongs here, not {text!r}")
        return int(text)
    return text


def _refuse_commas(key: str, value: str) -> None:
    if not value or "," in value:
        raise SpecError(key, f"{value!r} cannot be one: it is empty or holds a comma")


def _check_revision(spec: ModelSpec, revision: str) -> None:
    if spec.source == DEMO or is_local(spec.source):
        kind = "directory" if local_directory(spec.source) else "file"
        what = "the bundled model" if spec.source == DEMO else f"{spec.source}, a {kind},"
        raise SpecError("revision", f"{what} has no revisions; leave out @{revision}")
    _refuse_commas("revision", revision)


def _check_file(spec: ModelSpec, file: str) -> None:
    _refuse_commas("file", file)
    if not file.lower().endswith(GGUF):
        raise SpecError("file", f"{file!r} does not end in {GGUF}; other weights need no key")
    if spec.source == DEMO or local_gguf(spec.source):
        what = "the bundled model is no GGUF" if spec.source == DEMO else "the source is a file already"
        raise SpecError("file", f"{what}; leave it out")
    if ".." in Path(file).parts or Path(file).is_absolute():
        raise SpecError("file", f"{file!r} must lie in the model's repository or directory")
