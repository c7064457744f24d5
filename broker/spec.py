"""MODEL_SPEC, as the command line and tokenyard.toml spell what a worker is to serve: part of the contract.

Front, supervisor and worker read the same words, so they are parsed here once. Nothing here touches a disk or a
network: whether the model exists is found out by whoever loads it.
"""

from typing import NamedTuple

from tokenyard.broker.errors import SetupError

DEMO = "demo"
"""The source that stands for the bundled model."""
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


def parse_spec(text: str) -> ModelSpec:
    """Read one MODEL_SPEC. Raises SetupError naming the key at fault."""
    model, *options = text.split(",")
    source, _, revision = model.partition("@")
    if not source:
        raise SetupError(f"model {text!r}: the model's name is missing")
    if model.endswith("@"):
        raise SetupError(f"model {text!r}: the revision after @ is missing")
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
