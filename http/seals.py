"""Thoughts in the fields that other servers fill with encrypted ones, for clients that send back only these."""

import base64
import binascii

from tokenyard.http.errors import invalid

SEAL = "ty1."
"""Begins what `seal` makes."""


def seal(thought: str) -> str:
    """A thought as opaque text. Not secret, and need not be: it is the client's own conversation.

    Clients without state, Codex above all, drop the thought itself and send only this back.
    """
    return SEAL + base64.b64encode(thought.encode()).decode()


def unseal(sealed: str, param: str) -> str:
    """The thought in what `seal` made. Raises TokenyardError for what another server encrypted."""
    try:
        if not sealed.startswith(SEAL):
            raise ValueError
        return base64.b64decode(sealed.removeprefix(SEAL), validate=True).decode()
    except (ValueError, binascii.Error, UnicodeDecodeError):
        invalid(param, "cannot be read: another server made it; leave it out")
