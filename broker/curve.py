"""CURVE keys of a pool of several boxes: the files of one folder, and the list of who may come in.

    own.key_secret      this box's key pair; its secret half never leaves the folder
    broker.key          the broker's public key
    allowed/NAME.key    where the broker runs: the public key of each box that may connect

The files are ZeroMQ's certificates, as zmq.auth writes them; scripts/pool_keys.py makes them. A box uses its pair for
all: to be let in by the broker and by workers, and to be known by its own workers' clients.
"""

import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import zmq
import zmq.auth
from zmq.utils import z85

from tokenyard.broker.errors import SetupError

OWN = "own.key_secret"
BROKER = "broker.key"
ALLOWED = "allowed"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keys:
    """What one box needs to know."""

    folder: Path
    public: str
    """Of this box, in Z85: who it is."""
    secret: bytes = field(repr=False)
    """In Z85."""
    broker: str
    """The public key that proves the broker."""


def read_keys(folder: Path) -> Keys:
    """The keys of a folder. Raises SetupError with what to change; no message holds a secret."""
    if not zmq.has("curve"):
        raise SetupError("this machine's ZeroMQ was built without CURVE: install pyzmq from its wheel")
    for path in (folder, folder / OWN, folder / BROKER):
        if not path.exists():
            raise SetupError(f"--keys {folder}: there is no {path}; `tokenyard keys` makes the files")
    for path in (folder, folder / OWN):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SetupError(f"--keys {folder}: others may read {path}: chmod go= {path}")
    public, secret = read_certificate(folder / OWN)
    if not secret:
        raise SetupError(f"--keys {folder}: {folder / OWN} holds no secret key")
    broker, _ = read_certificate(folder / BROKER)
    return Keys(folder.absolute(), public, secret, broker)


def read_certificate(path: Path) -> tuple[str, bytes]:
    """(public key, secret key) of a file; the latter is empty where it holds none. Raises SetupError."""
    try:
        public, secret = zmq.auth.load_certificate(path)
        for key in (public, secret):
            if key is not None and len(z85.decode(key)) != 32:
                raise ValueError
        return public.decode(), secret or b""
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror or 'it cannot be read'}") from error
    except (ValueError, KeyError, TypeError):
        # `from None`: what the parser stumbled over may be a secret.
        raise SetupError(f"{path} is no ZeroMQ certificate; `tokenyard keys` makes them") from None


class AllowList:
    """Who may connect: the files of `allowed`, read again when one comes, goes or changes."""

    def __init__(self, keys: Keys) -> None:
        self._folder = keys.folder / ALLOWED
        self._seen: list[tuple[str, int, int]] | None = None
        self.names: dict[str, str] = {}
        """By public key."""
        self.refresh()

    def refresh(self) -> bool:
        """Look at the files; whether the keys are others now. What cannot be read is left out, with a word."""
        files = sorted(self._folder.glob("*.key"))
        seen = [(path.name, info.st_mtime_ns, info.st_size) for path in files if (info := _stat(path))]
        if seen == self._seen:
            return False
        self._seen = seen
        before, self.names = self.names, {}
        for name, _, _ in seen:
            try:
                public, _ = read_certificate(self._folder / name)
                self.names[public] = name.removesuffix(".key")
            except SetupError as error:
                log.warning("nobody is let in by this file: %s", error)
        if not self.names:
            log.warning("%s lets nobody in: there is no key in it", self._folder)
        return self.names.keys() != before.keys()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # it has just gone
        return None
