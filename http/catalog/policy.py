"""Which models requests may ask for. Asks neither network nor, but for directories of that name, disk."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from tokenyard.broker.errors import SetupError, TokenyardError
from tokenyard.broker.spec import parse_spec

ANY, CACHED, NONE = "any", "cached", "none"
MAX_SHOWN = 100
"""Characters of a refused name in our words."""


class Policy(NamedTuple):
    """What may be loaded besides the models that are up."""

    named: tuple[str, ...] = ()
    """MODEL_SPECs of the models named at start."""
    allow: tuple[str, ...] = ()
    """Patterns of Hub names, as a shell has them; `cached`: those in the local Hub cache."""
    models_dir: Path | None = None
    """Whose directories may be loaded, too."""
    trust_remote_code: bool = False
    dtype: str = ""
    """In which models are loaded that do not say; empty: auto."""
    quantization: str = ""
    """The same; empty: off."""

    def allows(self, name: str) -> bool:
        """Whether a Hub name matches a pattern."""
        return any(fnmatchcase(name, pattern) for pattern in self.allow if pattern != CACHED)

    @property
    def allows_cached(self) -> bool:
        return CACHED in self.allow

    def names(self) -> dict[str, str]:
        """Of the models named at start: MODEL_SPEC by each name, and by name and revision."""
        found = {}
        for text in self.named:
            spec = parse_spec(text)
            for name in spec.called:
                found[name] = text
                if spec.revision:
                    found[f"{name}@{spec.revision}"] = text
        return found

    def refuse(self, name: str) -> TokenyardError:
        """The 404 that says what would be allowed."""
        named = sorted({parse_spec(text).called[0] for text in self.named})
        allowed = [
            *([f"the models named at start ({', '.join(named)})"] if named else []),
            *(["models in the local Hub cache"] if self.allows_cached else []),
            *(f"{pattern}" for pattern in self.allow if pattern != CACHED),
            *(["directories under --models-dir"] if self.models_dir else []),
        ]
        words = f"the model {shown(name)} is not served here; allowed are {'; '.join(allowed) or 'none to be loaded'}"
        return TokenyardError("model_not_found", f"{words}. GET /v1/models lists", "model")


def read_allow(words: Sequence[object]) -> tuple[str, ...]:
    """--allow-models, each a pattern or several with commas between them. Raises SetupError."""
    if any(not isinstance(word, str) for word in words):
        raise SetupError("models are allowed by names and patterns, which are strings")
    given = [part.strip() for word in words for part in str(word).split(",")]
    for alone in (ANY, NONE):
        if alone in given and len(given) > 1:
            raise SetupError(f"{alone!r} of models that are allowed stands alone, without other words beside it")
    if given == [ANY]:
        return ("*",)
    if given == [NONE]:
        return ()
    for pattern in given:
        if not re.fullmatch(r"[\w./*?\[\]!-]+", pattern, re.ASCII):
            words = "models are allowed by any, none, cached or patterns of Hub names (Qwen/*,meta-llama/*)"
            raise SetupError(f"{words}, not by {pattern!r}")
    return tuple(given)


def shown(name: str) -> str:
    """A name from a request, for words: bounded, and nothing in it can act."""
    return repr(name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}...")
