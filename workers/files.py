"""A name for the content of a directory, and the place of what is kept between runs.

The name is the `commit` of a model that is not from the Hub: equal files give equal names on every machine, so that
prefix keys and resumed streams agree between workers.
"""

import os
from hashlib import blake2b
from pathlib import Path

WHOLE_BYTES = 64 << 20
"""Files up to this size are hashed whole: 60 ms at 1 GB/s."""
SAMPLE_BYTES = 64 << 10
NUM_SAMPLES = 64
"""Of a larger file, so many pieces, evenly spread, first and last included: 4 MiB. Any training changes all weights."""


def digest(directory: Path) -> str:
    """40 hex digits, as a commit of the Hub has."""
    total = blake2b(digest_size=20)
    for path in sorted(directory.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            size = path.stat().st_size
            total.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                for start in _starts(size):
                    file.seek(start)
                    total.update(file.read(WHOLE_BYTES if size <= WHOLE_BYTES else SAMPLE_BYTES))
    return total.hexdigest()


def _starts(size: int) -> list[int]:
    if size <= WHOLE_BYTES:
        return [0]
    return [(size - SAMPLE_BYTES) * number // (NUM_SAMPLES - 1) for number in range(NUM_SAMPLES)]


def cache_dir() -> Path:
    """Where what is found out once is kept: `$TOKENYARD_CACHE_DIR`, else tokenyard's own folder in the user's cache."""
    if given := os.environ.get("TOKENYARD_CACHE_DIR"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenyard"
