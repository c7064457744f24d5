"""What a streaming server answered: HTTP bytes to events, events to one record of times and tokens.

Pure: no sockets, no clock. Reads just as much of HTTP/1.1 as uvicorn writes (both servers run on it), so that the
client is not what the benchmark measures.
"""

import json
from typing import Any, NamedTuple

END_OF_HEAD = b"\r\n\r\n"
END_OF_EVENT = b"\n\n"


class ResponseReader:
    """Cuts one response into its server-sent events."""

    def __init__(self) -> None:
        self.status = 0
        """Zero until the head is there."""
        self.complete = False
        self.text = bytearray()
        """Body that is not yet a whole event; with a status other than 200, the whole body."""
        self._buffer = bytearray()
        self._chunked = False
        self._num_missing = 0
        """Body bytes still to come, where the head told their number."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; return the events that are now whole, without their blank line."""
        self._buffer += data
        if self.status == 0 and not self._read_head():
            return []
        if self._chunked:
            self._read_chunks()
        else:
            self.text += self._buffer
            self._num_missing -= len(self._buffer)
            self._buffer.clear()
            self.complete = self._num_missing <= 0
        if self.status != 200:
            return []
        *events, rest = self.text.split(END_OF_EVENT)
        self.text = rest
        return [bytes(event) for event in events]

    def _read_head(self) -> bool:
        end = self._buffer.find(END_OF_HEAD)
        if end < 0:
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.status = int(first.split()[1])
        self._chunked = headers.get("transfer-encoding", "") == "chunked"
        self._num_missing = int(headers.get("content-length", 0))
        del self._buffer[: end + len(END_OF_HEAD)]
        return True

    def _read_chunks(self) -> None:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            size = int(self._buffer[:end].partition(b";")[0], 16)
            start = end + 2
            if len(self._buffer) < start + size + 2:
                return
            self.text += self._buffer[start : start + size]
            del self._buffer[: start + size + 2]
            if size == 0:
                self.complete = True
                return


class Record(NamedTuple):
    """One request as the client saw it; times are seconds of the client's monotonic clock."""

    sent_s: float
    chunks_s: list[float]
    """Arrival of each event that carried text. A chunk is a token, nearly: bytes of an unfinished character and special
    tokens come without an event on either server, so tokens are counted by usage, never by chunks."""
    end_s: float
    num_prompt_tokens: int
    num_tokens: int


def read_record(sent_s: float, events: list[tuple[float, bytes]], end_s: float) -> Record:
    """Parse the events of a finished stream. Raises ValueError if it carried an error or no usage."""
    chunks_s: list[float] = []
    usage: dict[str, int] | None = None
    for arrived_s, event in events:
        if not event.startswith(b"data:") or event == b"data: [DONE]":
            continue
        body: dict[str, Any] = json.loads(event.removeprefix(b"data:"))
        if "error" in body:
            raise ValueError(f"the stream carried an error: {body['error']}")
        usage = body.get("usage") or usage
        if any(choice.get("text") for choice in body["choices"]):
            chunks_s.append(arrived_s)
    if usage is None or not chunks_s:
        raise ValueError(f"the stream ended without {'text' if usage else 'usage'}")
    return Record(sent_s, chunks_s, end_s, usage["prompt_tokens"], usage["completion_tokens"])
