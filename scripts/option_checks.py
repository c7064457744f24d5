"""What options may be, on the command line and as keys in a file, and how one process hands them to another."""

import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import KINDS, OPTIONS, check_option
from tokenyard.http.catalog.policy import read_allow
from tokenyard.http.formats.names import read_choices

ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")
"""As browsers send it (RFC 6454): one with a slash at its end would never match."""
Check = Callable[[Any], object]
"""Raises SetupError with words that do not name the option: whoever read it knows where it stands."""


def check_api_keys(keys: Sequence[Any]) -> None:
    if any(not isinstance(key, str) or not key or key.split() != [key] for key in keys):
        raise SetupError("an API key must be a word without spaces")


def check_origins(origins: Sequence[Any]) -> None:
    for origin in origins:
        if not isinstance(origin, str) or not ORIGIN.fullmatch(origin):
            raise SetupError(f"an origin is SCHEME://HOST[:PORT] without a path, or *; not {origin!r}")


def read_tls(certfile: Path | str | None, keyfile: Path | str | None) -> list[Path]:
    """The files that https needs, as absolute paths; raises SetupError where they do not serve."""
    if certfile is None:
        if keyfile is not None:
            raise SetupError("--ssl-keyfile needs --ssl-certfile")
        return []
    files = [Path(one).absolute() for one in (certfile, keyfile) if one is not None]
    for path in files:
        if not path.is_file():
            raise SetupError(f"there is no file {path}")
    try:
        # A key with a passphrase would ask for it on the terminal of every front.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files[0], files[-1], lambda: "")
    except OSError as error:
        raise SetupError(f"{' and '.join(map(str, files))} are no certificate and key for https: {error}") from error
    return files


def typed(kind: type, check: Check = lambda _: None) -> Check:
    """Of this type exactly, for `true` is no number; then `check`."""

    def checked(value: Any) -> None:
        if type(value) is not kind:
            raise SetupError(f"{KINDS[kind]} belongs here, not {value!r}")
        check(value)

    return checked


def one_of(*values: str) -> Check:
    def check(value: str) -> None:
        if value not in values:
            raise SetupError(f"choose one of {', '.join(values)}, not {value!r}")

    return check


def whole(least: int, most: float = inf) -> Check:
    """A whole number within these bounds."""

    def check(value: int) -> None:
        if not least <= value <= most:
            raise SetupError(f"it must be at least {least}" if value < least else f"it must be at most {most:.0f}")

    return typed(int, check)


def as_arguments(**given: Any) -> list[str]:
    """Options as a command line has them: a list repeats its option, what is None or empty is left out."""
    parts: list[str] = []
    for key, value in given.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            parts.append(f"--{name}" if value else f"--no-{name}")
            continue
        for one in value if isinstance(value, (list, tuple)) else [value]:
            parts += [] if one in (None, "") else [f"--{name}", str(one)]
    return parts


STRING = typed(str)
ENGINE_CHECKS: Mapping[str, Check] = {key: partial(check_option, key) for key in OPTIONS}
FRONT_CHECKS: Mapping[str, Check] = {
    "host": STRING,
    "port": whole(0, 65535),
    "count": whole(1),
    "api_keys": typed(list, check_api_keys),
    "cors_origins": typed(list, check_origins),
    "tool_formats": typed(list, read_choices),
    "allow_models": typed(list, read_allow),
    "models_dir": STRING,
    "lora_dir": STRING,
    "allow_loras": typed(list, read_allow),
    "store": STRING,
    "mcp": STRING,
    "ssl_certfile": STRING,
    "ssl_keyfile": STRING,
    "max_requests_per_key": whole(1),
}
"""Keys of [front]. What depends on several is asked once all are known (plan.py)."""
LORA_CHECKS: Mapping[str, Check] = {"source": STRING, "base": STRING}
"""Keys of [lora.NAME]."""
POOL_CHECKS: Mapping[str, Check] = {
    "gpu_share": whole(1),
    "evict": typed(str, one_of("idle", "busy")),
    "model_timeout": whole(0),
    "load_timeout": whole(1),
    "standby": typed(bool),
}
"""Keys of [pool]: how models on demand are loaded."""
