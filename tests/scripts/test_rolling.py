"""Which workers `tokenyard drain` means, and what it says of those it cannot drain."""

from typing import Any

import pytest

from tokenyard.broker.errors import SetupError
from tokenyard.scripts.rolling import choose


def row(inc: str, pid: int, state: str = "ready", model: str = "demo") -> dict[str, Any]:
    return {"inc": inc, "pid": pid, "state": state, "models": [model] if state != "loading" else [], "name": model}


OLD, NEW, LOADING, OTHER = (
    row("ab12cd34ffffffff", 100),
    row("ab99cd34ffffffff", 200),
    row("cc12cd34ffffffff", 300, "loading"),
    row("dd12cd34ffffffff", 400, "draining", "other"),
)
ROWS = [OLD, NEW, LOADING, OTHER]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], [OLD, NEW, OTHER]),
        (["ab12"], [OLD]),
        (["200"], [NEW]),
        (["demo"], [OLD, NEW]),
        (["other", "ab12", "100"], [OTHER, OLD]),
    ],
)
def test_workers_are_named_by_digits_pid_or_model(names: list[str], chosen: list[dict[str, Any]]) -> None:
    assert choose(ROWS, names) == chosen


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ab", "'ab' names 2 workers: ab12cd34ffffffff, ab99cd34ffffffff"),
        ("zz", "'zz' names no worker; there are: ab12cd34, ab99cd34, cc12cd34, dd12cd34"),
        ("", "'' names no worker"),
        ("cc12", "cc12cd34 is still loading"),
    ],
)
def test_a_name_that_is_not_one_worker_is_told(name: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        choose(ROWS, ["ab12", name])
