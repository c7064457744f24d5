"""Prefix keys: one hash per full block of prompt, each chained to the one before.

Front (to tell the broker what a prompt begins with) and worker (to find cached blocks) must agree on every byte, so
this is part of the contract. Two chains with different roots never share a key.
"""

from hashlib import blake2b

from tokenyard.broker.ranges import ID_BYTES, KEY_BYTES


def root_key(commit: str, dtype: str, adapter: str = "") -> bytes:
    """The start of a chain: all that makes equal tokens have equal keys and values."""
    parts = [part.encode() for part in (commit, dtype, adapter)]
    return blake2b(b"".join(len(part).to_bytes(4, "little") + part for part in parts), digest_size=KEY_BYTES).digest()


def salted(root: bytes, salt: str) -> bytes:
    """The root for requests with this cache_salt: it keeps tenants from probing each other's prompts by timing."""
    return blake2b(salt.encode(), key=root, digest_size=KEY_BYTES).digest() if salt else root


def next_key(previous: bytes, block_ids: bytes) -> bytes:
    """The key of the block that holds `block_ids` (packed u32) and follows the block named by `previous`."""
    return blake2b(previous + block_ids, digest_size=KEY_BYTES).digest()


def chain(root: bytes, ids: bytes, block_size: int, limit: int | None = None) -> list[bytes]:
    """Keys of all full blocks of the packed `ids` (of the first `limit` blocks, if given)."""
    span = block_size * ID_BYTES
    count = len(ids) // span
    keys: list[bytes] = []
    for index in range(count if limit is None else min(count, limit)):
        root = next_key(root, ids[index * span : (index + 1) * span])
        keys.append(root)
    return keys
