"""Who a process is. Part of the wire contract.

An incarnation is a hash of a secret that its process made. All may know an incarnation; who speaks for one shows the
secret, and any listener can tell, also one that has just started, on ipc and tcp alike.
"""

from hashlib import blake2b
from typing import NamedTuple

from tokenyard.broker.ranges import INC_BYTES
from tokenyard.broker.ranges import SECRET_BYTES as SECRET_BYTES


class Identity(NamedTuple):
    """One life of one process. Make it of SECRET_BYTES random bytes."""

    inc: bytes
    secret: bytes

    @staticmethod
    def of(secret: bytes) -> "Identity":
        return Identity(incarnation_of(secret), secret)

    @property
    def proof_topic(self) -> bytes:
        """What a front subscribes to beside its tokens, and nobody else can: so a worker knows whom it sends to."""
        return self.inc + self.secret


def incarnation_of(secret: bytes) -> bytes:
    return blake2b(secret, digest_size=INC_BYTES, person=b"tokenyard").digest()


def prover_of(topic: bytes) -> bytes | None:
    """The front whose `proof_topic` this is; None where it is none."""
    inc, secret = topic[:INC_BYTES], topic[INC_BYTES:]
    return inc if len(secret) == SECRET_BYTES and incarnation_of(secret) == inc else None
