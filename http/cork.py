"""Holds a client's writes back while several deltas are told in a row, so that they become one.

Sans-IO; one for each front. Named after TCP_CORK, which does the same for a socket.
"""

from collections.abc import Callable


class Cork:
    """`with cork: tell()`: while it is `held`, whoever would write keeps it and waits to be called."""

    __slots__ = ("_waiting", "held")

    def __init__(self) -> None:
        self.held = False
        self._waiting: list[Callable[[], None]] = []

    def wait(self, flush: Callable[[], None]) -> None:
        """Have `flush` called, once, when the cork comes out. It must not raise."""
        assert self.held
        self._waiting.append(flush)

    def __enter__(self) -> None:
        assert not self.held
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False
        waiting, self._waiting = self._waiting, []
        for flush in waiting:
            flush()
