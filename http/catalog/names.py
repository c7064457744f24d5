"""What a name in a request can be that stands for a model on the Hub: NAME or ORG/NAME, and @REVISION."""

import re

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its own modules import it so

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.catalog.policy import shown

MAX_NAME = 300
"""A Hub name has at most 96 characters, and branches are rarely longer."""
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
"""Of what git allows, what cannot lead out of a directory."""


def read_name(name: str) -> tuple[str, str | None]:
    """A Hub name and its revision. Raises TokenyardError for all else."""
    hub_name, at, revision = name.partition("@")
    try:
        if len(name) > MAX_NAME:
            raise HFValidationError("too long")
        validate_repo_id(hub_name)
    except HFValidationError as error:
        raise TokenyardError("model_not_found", f"{shown(name)} is no name that a model has", "model") from error
    if at and not REVISION.fullmatch(revision):
        raise TokenyardError("model_not_found", f"{shown(name)} names no revision that a model has", "model")
    return hub_name, revision or None
