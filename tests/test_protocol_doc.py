"""docs/protocol.md is the authority on the wire: it and the code must say the same."""

import re
from pathlib import Path

import pytest

from tokenyard.broker import config, wire
from tokenyard.broker.errors import KINDS, REFUSALS
from tokenyard.broker.params import Grammar, Params, Processors, SequenceBias

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()


def test_every_message_stands_in_the_table_with_its_fields() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*?) ?\| ", PAGE, re.MULTILINE)
    documented = {int(tag): (name, fields) for tag, name, fields in rows}
    assert documented == {tag: (cls.__name__, ", ".join(cls._fields)) for tag, cls in wire.TAGS.items()}


@pytest.mark.parametrize(
    "structure",
    [
        wire.Adapter,
        wire.Card,
        Params,
        Grammar,
        Processors,
        SequenceBias,
        wire.Delta,
        wire.Finish,
        wire.WorkerInfo,
        wire.WorkerJob,
        wire.FrontJob,
        wire.Post,
    ],
    ids=lambda structure: structure.__name__,
)
def test_every_structure_stands_in_the_table_with_its_fields(structure: type) -> None:
    assert f"| `{structure.__name__}` | {', '.join(structure._fields)} |" in PAGE  # type: ignore[attr-defined]


def test_every_error_code_stands_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\w+) \|$", PAGE, re.MULTILINE)
    assert {code: (int(status), kind) for code, status, kind in rows} == {
        code: (kind.status, kind.type) for code, kind in KINDS.items()
    }


def test_every_reason_of_a_refusal_stands_in_the_table() -> None:
    for reason, words in REFUSALS.items():
        assert f"| `{reason}` | {words} |" in PAGE


def test_timers_and_version_are_those_of_the_code() -> None:
    assert f"Protocol version: **{wire.PROTOCOL}**" in PAGE
    for name in re.findall(r"`([A-Z]+(?:_[A-Z]+)*)` \|$", PAGE, re.MULTILINE):
        assert hasattr(config, name), name
