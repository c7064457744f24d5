"""The messages between a worker and a front, over the worker's XPUB. Import them from wire.py, their one door."""

from typing import NamedTuple

from tokenyard.broker.ranges import Inc, Natural, Secret
from tokenyard.broker.structures import Delta


class LinkUp(NamedTuple):
    """The subscription was seen; the worker holds batches [oldest, next) for this front."""

    worker: Inc
    oldest: Natural
    next: Natural
    link: Natural = 0
    """Grows with each link that the worker makes: one that it made anew, having freed the front, counts from 0."""


class Tokens(NamedTuple):
    """All that one step made for this front's sequences. `seq` numbers the batches of this link from 0."""

    seq: Natural
    deltas: list[Delta]


class Idle(NamedTuple):
    """Nothing more to send for now; `next` is the number that the next batch will have."""

    next: Natural


class Resume(NamedTuple):
    front: Inc
    worker: Inc
    from_seq: Natural
    secret: Secret = b""
    """The front's, in all that goes up: only it may say what has arrived, or what it needs no more."""


class Ack(NamedTuple):
    """All batches below `upto` have arrived."""

    front: Inc
    worker: Inc
    upto: Natural
    secret: Secret = b""


class Stop(NamedTuple):
    """This stream needs no more tokens (stop string, client gone)."""

    front: Inc
    worker: Inc
    job: Natural
    secret: Secret = b""


class Pause(NamedTuple):
    """This stream's client does not keep up: compute nothing for it during `ms`; 0: go on."""

    front: Inc
    worker: Inc
    job: Natural
    ms: Natural
    secret: Secret = b""
