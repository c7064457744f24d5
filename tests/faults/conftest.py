"""What the fault tests share: their sizes, the right answers, and the table of what was counted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import pytest
from traffic import NUM_ASKS, Ask, Counts, Judge, Traffic, asks

TABLE: list[tuple[str, Counts]] = []
"""Fault and result of every run so far, for the summary."""


class Run(Protocol):
    """Traffic against one server while something is done to it; what was counted is shown at the end."""

    def __call__(
        self, fault: str, url: str, num_requests: int, disturb: Callable[[], Awaitable[object]] | None = None
    ) -> Counts: ...


@pytest.fixture(scope="session")
def known() -> list[Ask]:
    return asks()


@pytest.fixture(scope="session")
def judges() -> list[Judge]:
    """Empty until the first run; every pool here serves the same weights, so one undisturbed run is enough."""
    return []


@pytest.fixture
def record() -> Callable[[str, Counts], None]:
    """Puts a run in the table."""
    return lambda fault, counts: TABLE.append((fault, counts))


@pytest.fixture
def judge(judges: list[Judge], known: list[Ask]) -> Callable[[str], Judge]:
    """Of the server at this URL, which nothing disturbs yet."""

    def judge_of(url: str) -> Judge:
        if not judges:
            judges.append(Judge(asyncio.run(Traffic(url, known).run(2 * NUM_ASKS))))
            TABLE.append(("none", judges[0].undisturbed))
        return judges[0]

    return judge_of


@pytest.fixture
def run(judge: Callable[[str], Judge], known: list[Ask]) -> Run:
    def run_one(
        fault: str, url: str, num_requests: int, disturb: Callable[[], Awaitable[object]] | None = None
    ) -> Counts:
        judging = judge(url)
        counts = judging.count(asyncio.run(Traffic(url, known).run(num_requests, disturb)))
        TABLE.append((fault, counts))
        return counts

    return run_one


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A table in Markdown: docs/reliability.md is made of it."""
    if not TABLE:
        return
    rows = [{"fault": fault, **counts.row()} for fault, counts in TABLE]
    terminalreporter.section("what the faults did")
    terminalreporter.line(f"| {' | '.join(rows[0])} |")
    terminalreporter.line("| --- |" + " ---: |" * (len(rows[0]) - 1))
    for row in rows:
        terminalreporter.line(f"| {' | '.join(row.values())} |")
