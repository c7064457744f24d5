"""The TurnParser of every format of ours: runs a format's steps as text comes. Knows no format."""

from collections.abc import Callable, Mapping
from itertools import groupby

from tokenyard.http.formats.reading import Reading
from tokenyard.http.formats.source import EndOfText, Steps
from tokenyard.http.formats.values import Schema
from tokenyard.http.turns import CallArguments, Part, Text, Thought

Read = Callable[[Reading], Steps[None]]
"""The steps that read a turn."""


class FormatParser:
    """Reads one turn in one format.

    `begun` is what the prompt has written of the turn already, a mark that opens a thought, say. `new_id` makes the
    ids of calls that come without one; else whoever shapes the answer does.
    """

    def __init__(
        self,
        read: Read,
        tools: Mapping[str, Schema],
        *,
        begun: str = "",
        max_calls: int | None = None,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._reading = Reading(tools, max_calls, new_id)
        self._steps = self._run(read)
        self._finished = False
        self.push(begun)

    @property
    def num_calls(self) -> int:
        return self._reading.num_calls

    @property
    def thinking(self) -> bool:
        return self._reading.thinking

    @property
    def settled(self) -> bool:
        return self._reading.settled

    def push(self, text: str) -> list[Part]:
        if not text or self._finished:
            return []
        self._reading.feed(text)
        return self._step()

    def flush(self) -> list[Part]:
        if self._finished:
            return []
        self._reading.ended = True
        return self._step()

    def _step(self) -> list[Part]:
        self._finished = next(self._steps, True) is True
        parts, self._reading.parts = self._reading.parts, []
        return parts if len(parts) < 2 else _joined(parts)

    def _run(self, read: Read) -> Steps[None]:
        try:
            yield from read(self._reading)
        except EndOfText:
            self._reading.close()


def _joined(parts: list[Part]) -> list[Part]:
    """Neighbours of one kind as one part, so that what came at once is told at once."""
    joined: list[Part] = []
    for _, run in groupby(parts, key=lambda part: (type(part), getattr(part, "number", None))):
        pieces = list(run)
        texts = [part.text for part in pieces if isinstance(part, Text | Thought | CallArguments)]
        first = pieces[0]
        if isinstance(first, Text | Thought | CallArguments):
            joined.append(first._replace(text="".join(texts)))
        else:
            joined += pieces
    return joined
