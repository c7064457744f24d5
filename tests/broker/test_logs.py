"""Log lines, for people and for machines."""

import json
import logging
from collections.abc import Iterator

import pytest

from tokenyard.broker import logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def say(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Three lines of a front: a plain one, a request's, and one with a traceback."""
    logs.setup("front 0", "INFO")
    log = logging.getLogger("test")
    log.info("two\nlines %d", 1)
    log.info("GET / 200", extra={"request_id": "mine", "fields": {"status": 200, "path": "/"}})
    try:
        raise ValueError("words")
    except ValueError:
        log.exception("failed", extra={"request_id": "mine"})
    log.debug("never shown")
    logging.getLogger("httpx2").info("HTTP Request: GET http://hub/model")
    return capsys.readouterr().err.splitlines()


def test_for_people(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    lines = say(capsys)
    assert " front 0   INFO    GET / 200" in lines[2]
    assert lines[2].count("mine") == 0  # its own words have it
    assert lines[-1] == "ValueError: words request_id=mine"


def test_for_machines(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(logs.JSON_VARIABLE, "1")
    plain, request, failure = map(json.loads, say(capsys))
    assert plain.keys() == {"time", "process", "level", "message"}
    assert (plain["process"], plain["level"], plain["message"]) == ("front 0", "info", "two\nlines 1")
    assert (request["request_id"], request["status"], request["path"]) == ("mine", 200, "/")
    assert "ValueError: words" in failure["traceback"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("words", "words"),
        ('{"message": "words"}', "words"),
        ("20:43:16 worker 2d61 ERROR   model x: words", "model x: words"),
        ("20:43:16 broker    INFO    words", "words"),
        ("20:43:16 says the ERROR", "20:43:16 says the ERROR"),
        ("1", "1"),
        ("", ""),
    ],
)
def test_what_a_line_says(line: str, message: str) -> None:
    assert logs.message_of(line) == message
