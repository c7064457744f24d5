"""The API keys that open a front, kept as digests: no log can show one.

The process's memory may, by what it was started with and by requests that it has just read.
"""

import hmac
from collections.abc import Iterable, Mapping
from hashlib import sha256


class KeyRing:
    """Some keys, or none: then everybody is let in."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        # Keys are random and long, unlike passwords: one round of a fast hash is enough.
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def __len__(self) -> int:
        return len(self._digests)

    def find(self, headers: Mapping[bytes, bytes]) -> int | None:
        """Which key a request has sent, as a bearer token or as Anthropic's clients do, in x-api-key; None: none."""
        kind, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = (bearer.strip() if kind.lower() == b"bearer" else b"", headers.get(b"x-api-key", b""))
        one, other = (sha256(key).digest() for key in given)
        # All are compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(one, key) | hmac.compare_digest(other, key) for key in self._digests]
        return matches.index(True) if any(matches) else None
