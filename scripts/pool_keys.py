"""`tokenyard keys`: makes the key files of a pool of several boxes. What they are is said in broker/curve.py.

A box's folder is made whole beside the broker's, ready to be copied; its public key joins the list of those let in.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import zmq.auth

from tokenyard.broker.curve import ALLOWED, BROKER, OWN, read_keys
from tokenyard.broker.errors import SetupError

FOR = "for"
"""The folder of folders that wait to be copied to their boxes."""
BROKER_NAME = "broker"
"""Of the broker's own box in the list."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A host's name, usually; it becomes a file's."""
PUBLIC, SECRET = "own.key", OWN
"""As zmq.auth names the two files of `own`."""


def default_folder() -> Path:
    """Where a user's configuration is (XDG base directories)."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "tokenyard" / "keys"


def make_keys(folder: Path, names: Sequence[str]) -> list[str]:
    """Make what is missing and leave the rest as it is; says what was done and what to copy. Raises SetupError."""
    for name in names:
        if not NAME.fullmatch(name) or name == BROKER_NAME:
            raise SetupError(
                f"--name {name}: give a box's name of letters, digits, dots and dashes, not {BROKER_NAME!r}"
            )
    try:
        with _private_files():
            words = _make_broker(folder)
            for name in names:
                words += _make_box(folder, name)
    except OSError as error:
        raise SetupError(f"{error.filename or folder}: {error.strerror}") from error
    return words


def _make_broker(folder: Path) -> list[str]:
    """The folder of the box where the broker runs."""
    if (folder / OWN).exists():
        _check_broker(folder)
        words = [f"{folder} has the broker's keys."]
    else:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(folder.stat().st_mode) & 0o077:
            raise SetupError(f"others may read {folder}: chmod go= {folder}, or name a folder that is not there yet")
        (folder / ALLOWED).mkdir(exist_ok=True)
        _make_pair(folder, folder / BROKER)
        shutil.copy(folder / BROKER, folder / ALLOWED / f"{BROKER_NAME}.key")
        words = [f"made the broker's keys in {folder}. They stay on this box; its processes are started with"]
        words += [f"  tokenyard serve --bind tcp://0.0.0.0:7420 --keys {folder}"]
    allowed = ", ".join(sorted(path.stem for path in (folder / ALLOWED).glob("*.key")))
    return [*words, f"Let in by {folder / ALLOWED}: {allowed or 'nobody'}."]


def _check_broker(folder: Path) -> None:
    """Raise SetupError where this is another box's folder."""
    keys = read_keys(folder)
    if keys.public != keys.broker or not (folder / ALLOWED).is_dir():
        raise SetupError(f"{folder} is not the broker's: make the keys of all boxes where the broker runs")


def _make_box(folder: Path, name: str) -> list[str]:
    """The folder of one other box."""
    listed, box = folder / ALLOWED / f"{name}.key", folder / FOR / name
    if listed.exists() and not box.exists():
        return [f"{name} has a key already. For another: rm {listed}, and ask again."]
    words = f"{name} has a key already."
    if not listed.exists():
        if box.exists():  # of a run that was cut short, or of one that has been shut out
            shutil.rmtree(box)
        box.mkdir(parents=True)
        shutil.copy(folder / BROKER, box / BROKER)
        _make_pair(box, listed)
        words = f"made a key for {name}, and let it in."
    return [
        f"{words} Copy its folder there, and remove it here, where nothing needs it:",
        f"  scp -rp {box} {name}:tokenyard-keys && rm -r {box}",
        f"  then on {name}: tokenyard agent --broker tcp://THIS_BOX:7420 --keys ~/tokenyard-keys --config FLEET.toml",
        f"  to shut {name} out again: rm {listed} (the broker notices within a second)",
    ]


def _make_pair(folder: Path, public: Path) -> None:
    """A fresh pair as `own` of a folder; its public half goes to `public`, last, in one piece."""
    zmq.auth.create_certificates(folder, "own")
    (folder / PUBLIC).rename(public)


@contextmanager
def _private_files() -> Iterator[None]:
    """Files made herein are the user's alone from their first byte on: zmq.auth leaves that to the umask."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
