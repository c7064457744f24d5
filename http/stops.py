"""Stop strings over a stream of text: what may be shown now, and where it ends. Knows no tokens and no HTTP."""

from collections.abc import Iterable


class StopScanner:
    """Passes text through, holding back what may yet become a stop string; the first match to be complete ends it.

    That rule, and the longest of those that are complete at the same character, does not depend on how text is cut
    into pushes, so tokens' borders do not show.
    """

    def __init__(self, stops: list[str], include: bool = False) -> None:
        assert all(stops), "an empty stop string matches everywhere"
        self.stops = stops
        """None: all text passes through."""
        self._include = include
        self._held = ""
        """Text not yet shown: the longest tail that begins some stop string."""
        self.stopped: str | None = None
        """The string that ended the text, once one has."""

    def push(self, text: str) -> str:
        """Take more text; return what may be shown. Nothing after a match."""
        if self.stopped is not None:
            return ""
        if not self.stops:
            return text
        text = self._held + text
        found = self._earliest(text)
        if found is None:
            keep = undecided_tail(text, 0, self.stops)
            self._held = text[len(text) - keep :]
            return text[: len(text) - keep]
        start, self.stopped = found
        self._held = ""
        return text[: start + len(self.stopped)] if self._include else text[:start]

    def flush(self) -> str:
        """The text has ended without a match: what was held back."""
        held, self._held = self._held, ""
        return held

    def _earliest(self, text: str) -> tuple[int, str] | None:
        """Start and string of the first match to be complete."""
        matches = [(start + len(stop), start, stop) for stop in self.stops if (start := text.find(stop)) >= 0]
        if not matches:
            return None
        _, start, stop = min(matches)
        return start, stop


def undecided_tail(text: str, start: int, strings: Iterable[str]) -> int:
    """Length of the longest tail of `text[start:]` that is a proper beginning of one of `strings`."""
    longest = 0
    for string in strings:
        at = max(start, len(text) - len(string) + 1)
        while (at := text.find(string[0], at)) >= 0:
            if string.startswith(text[at:]):
                longest = max(longest, len(text) - at)
                break
            at += 1
    return longest
