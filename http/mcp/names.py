"""Names under which a model sees servers' tools: `server__tool`, made to fit what APIs and models take as a name.

Pure: text in, text out.
"""

import re
from collections.abc import Collection
from hashlib import blake2b

SEPARATOR = "__"
MAX_CHARS = 64
"""OpenAI's limit of a function's name."""

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


def tool_name(label: str, tool: str, taken: Collection[str] = ()) -> str:
    """A name for a server's tool that none of `taken` is; the same for the same arguments."""
    name = f"{label}{SEPARATOR}{_UNFIT.sub('_', tool)}"
    if len(name) <= MAX_CHARS and name not in taken and _UNFIT.search(tool) is None:
        return name
    # Cut, or changed, it could be another tool's: a few letters of its own tell it apart.
    mark = blake2b(f"{label}\0{tool}".encode(), digest_size=4).hexdigest()
    return f"{name[: MAX_CHARS - len(mark) - 1]}_{mark}"
