"""Answers that no frame holds: cut into parts by the broker, put together by who asked. No sockets here.

A pool of thousands of workers has a Status of megabytes. Only lists are cut; the first part has all the rest.
"""

from typing import Any

from tokenyard.broker.wire import Answer

ROWS = 64
"""Of one part: with rows of some hundred bytes far below MAX_MESSAGE_BYTES."""


def parts(req: int, body: dict[str, Any]) -> list[Answer]:
    """The answers that say all of `body`, the last one without `more`."""
    lists = {key: value for key, value in body.items() if isinstance(value, list)}
    rows = [(key, row) for key, values in lists.items() for row in values]
    told: list[dict[str, Any]] = []
    for first in range(0, max(1, len(rows)), ROWS):
        part: dict[str, Any] = {} if told else {key: [] if key in lists else value for key, value in body.items()}
        for key, row in rows[first : first + ROWS]:
            part.setdefault(key, []).append(row)
        told.append(part)
    return [Answer(req, "", part, index + 1 < len(told)) for index, part in enumerate(told)]


class Collector:
    """Takes the parts of one question's answer; whoever repeats the question may get some of them twice."""

    def __init__(self) -> None:
        self._body: dict[str, Any] = {}

    def take(self, part: Answer) -> Answer | None:
        """The answer, once it is whole."""
        is_first = not part.body or any(not isinstance(value, list) for value in part.body.values())
        if is_first:  # what came before it was of an answer that broke off
            self._body = {}
        elif not self._body:
            return None
        for key, value in part.body.items():
            if isinstance(value, list):
                self._body.setdefault(key, []).extend(value)
            else:
                self._body[key] = value
        return None if part.more else part._replace(body=self._body)
