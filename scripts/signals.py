"""The signals that end a supervisor, as bytes on a socket that its poll loop reads."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def caught_signals() -> Iterator[socket.socket]:
    """A socket that yields the number of each ending signal as a byte."""
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        signal.set_wakeup_fd(writing.fileno())
        for signum in ENDING_SIGNALS:
            if signum is not signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:  # nohup(1) ignores it
                signal.signal(signum, lambda *_: None)
        yield reading
        signal.set_wakeup_fd(-1)
