"""One log line format for all processes: for people, or as JSON for machines.

A record may carry `request_id`, and `fields`, the parts of its message by name.
"""

import json
import logging
import os
import re
import sys
from typing import Any

JSON_VARIABLE = "TOKENYARD_LOG_JSON"
"""In the environment of a process whose log is JSON: so its children's is, too."""

CHATTY = ("httpx", "httpx2")
"""Clients that say a line at level info for each request: two dozen for a model of the Hub."""

LINE = re.compile(r"\d\d:\d\d:\d\d .{9,}? (?:DEBUG|INFO|WARNING|ERROR|CRITICAL) +(.*)", re.DOTALL)
"""A line as `setup` has it written."""


class _Lines(logging.Formatter):
    """For people: the request's id goes behind what is said on its behalf."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        request_id = record.__dict__.get("request_id")
        return f"{line} request_id={request_id}" if request_id and "fields" not in record.__dict__ else line


class _Json(logging.Formatter):
    """One object a line, whatever the message holds."""

    def __init__(self, process: str) -> None:
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S%z")
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": self.formatTime(record, self.datefmt),
            "process": self._process,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if request_id := record.__dict__.get("request_id"):
            told["request_id"] = request_id
        told |= record.__dict__.get("fields", {})
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


def setup(process: str, level: str = "INFO") -> logging.Handler:
    """Send this process's log to stderr, each line named by its process (`broker`, `worker 0`, `front 1`)."""
    handler = logging.StreamHandler(sys.stderr)
    lines = _Lines(f"%(asctime)s {process:<9} %(levelname)-7s %(message)s", "%H:%M:%S")
    handler.setFormatter(_Json(process) if os.environ.get(JSON_VARIABLE) else lines)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in CHATTY:
        logging.getLogger(name).setLevel(level if root.isEnabledFor(logging.DEBUG) else logging.WARNING)
    return handler


class Complaints:
    """Log lines about bad peers, at most one in `seconds`; the rest are counted."""

    def __init__(self, log: logging.Logger, seconds: float) -> None:
        self._log = log
        self._seconds = seconds
        self._num_silent = 0
        self._next_s = 0.0

    def say(self, words: str, now: float) -> None:
        if now < self._next_s:
            self._num_silent += 1
            return
        self._log.warning("%s%s", words, f" (after {self._num_silent} more)" if self._num_silent else "")
        self._num_silent, self._next_s = 0, now + self._seconds


def message_of(line: str) -> str:
    """What a line of a log says, be it JSON, one of ours, or any text."""
    if ours := LINE.fullmatch(line):
        return ours[1]
    try:
        told = json.loads(line)
    except ValueError:
        return line
    return str(told.get("message", line)) if isinstance(told, dict) else line
