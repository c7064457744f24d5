"""MODEL_SPEC, as the command line and tokenyard.toml spell what a worker is to serve: part of the contract.

Front, supervisor and worker read the same words, so they are parsed here once. Of the disk only one thing is asked,
whether something is a directory, for its name may hold `@` and commas. Whether the model exists is found out by whoever
loads it.
"""

from pathlib import Path
from typing import NamedTuple

from tokenyard.broker.errors import SetupError

DEMO = "demo"
"""The source that stands for the bundled model."""
DEMO_ID = "tokenyard-demo"
"""What that is called by default."""
LATER = ("quantization", "file", "pin")
"""Keys that are part of the notation but not served yet: refused by name, never ignored."""


class ModelSpec(NamedTuple):
    """`MODEL[@REV][,name=N][,replicas=N]`: what to load and what to call it."""

    source: str
    """Hub name, local directory, or DEMO."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    names: list[str] = []
    """What requests may call it instead of its source; the first becomes its id. `name=` may be given several times."""
    replicas: int = 1
    """Workers that load it."""

    @property
    def called(self) -> list[str]:
        """What requests may call it: the names given, else its Hub name or its directory's."""
        if self.source == DEMO:
            return self.names or [DEMO_ID]
        directory = local_directory(self.source)
        return self.names or [directory.name if directory else self.source]


def local_directory(source: str) -> Path | None:
    """The directory that this source is, absolute; None for what must be a name on the Hub."""
    path = Path(source).expanduser()
    return path.resolve() if path.is_dir() else None


def parse_spec(text: str) -> ModelSpec:
    """Read one MODEL_SPEC. Raises SetupError naming the key at fault."""
    model, options = _split(text)
    source, revision = model, ""
    if not local_directory(model):
        source, at, revision = model.partition("@")
        if at and not revision:
            raise SetupError(f"model {text!r}: the revision after @ is missing")
    if not source:
        raise SetupError(f"model {text!r}: the model's name is missing")
    if revision and (source == DEMO or local_directory(source)):
        what = "the bundled model" if source == DEMO else f"{source}, a directory,"
        raise SetupError(f"model {text!r}: {what} has no revisions; leave out @{revision}")
    names: list[str] = []
    replicas = 1
    for option in options:
        key, equals, value = option.partition("=")
        if key in LATER:
            raise SetupError(f"model {text!r}: the key {key!r} is not supported yet")
        if key not in ("name", "replicas"):
            raise SetupError(f"model {text!r}: unknown key {key!r}; the keys are name and replicas")
        if not equals or not value:
            raise SetupError(f"model {text!r}: the key {key!r} needs a value")
        if key == "name":
            names.append(value)
            continue
        if not (value.isascii() and value.isdigit() and int(value) > 0):
            raise SetupError(f"model {text!r}: replicas must be a whole number above 0")
        replicas = int(value)
    return ModelSpec(source, revision or None, names, replicas)


def _split(text: str) -> tuple[str, list[str]]:
    """The model and its options: up to the last comma that leaves a directory, else up to the first."""
    parts = text.split(",")
    for count in range(len(parts), 0, -1):
        if local_directory(model := ",".join(parts[:count])):
            return model, parts[count:]
    return parts[0], parts[1:]
