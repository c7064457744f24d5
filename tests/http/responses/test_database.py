"""The store's tables: bounds, ends that come once, what is left of a process that died."""

import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenyard.http.responses.database import Database


def body(number: int, status: str = "in_progress", **fields: Any) -> dict[str, Any]:
    return {"id": f"resp_{number}", "status": status, "previous_response_id": None, "output": [], **fields}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    one = Database(tmp_path / "db", max_responses=5, max_bytes=10_000)
    yield one
    one.close()


def add(database: Database, number: int, **fields: Any) -> None:
    database.begin(body(number), [{"id": f"item_{number}"}], streams=False)
    database.update(body(number, "completed", **fields))


def test_a_response_ends_once(database: Database) -> None:
    database.begin(body(1), [], streams=False)
    assert database.update(body(1, "cancelled"))
    assert not database.update(body(1, "completed"))
    row = database.get("resp_1")
    assert row is not None
    assert (row.status, row.body["status"]) == ("cancelled", "cancelled")


def test_the_oldest_make_room_for_the_newest(database: Database) -> None:
    for number in range(9):
        add(database, number)
    assert [database.get(f"resp_{number}") is not None for number in range(9)] == [False] * 4 + [True] * 5
    assert database.totals()[0] == 5
    assert database.item("item_3") is None
    assert database.item("item_8") == {"id": "item_8"}


@pytest.mark.parametrize("wait", [False, True])
def test_a_full_disk_costs_one_write(database: Database, wait: bool) -> None:
    """SQLite notices at once, or only when the transaction is committed; either way the next one finds none open."""
    add(database, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if wait:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    else:
        database.connection.execute("PRAGMA max_page_count = 1")  # as far as it goes: the pages that there are
    try:
        with pytest.raises(sqlite3.OperationalError, match="disk"):
            database.begin(body(2), [{"id": "item_2", "text": "x" * 9000}], streams=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        database.connection.execute("PRAGMA max_page_count = 1000")
    add(database, 3)
    assert [database.get(f"resp_{number}") is not None for number in (1, 2, 3)] == [True, False, True]


def test_bytes_are_bounded_and_counted_right(database: Database) -> None:
    for number in range(4):
        add(database, number, text="x" * 4000)
    num_responses, num_bytes = database.totals()
    assert num_responses == 2
    assert 8000 < num_bytes < 10_000
    for number in range(4):
        database.delete(f"resp_{number}")
    assert database.totals() == (0, 0)


def test_what_runs_is_not_evicted(database: Database) -> None:
    for number in range(7):
        database.begin(body(number), [], streams=False)
    assert all(database.get(f"resp_{number}") for number in range(7))


def test_events_go_with_their_response(database: Database) -> None:
    database.begin(body(1), [], streams=True)
    database.add_events("resp_1", [(0, b"a"), (1, b"b")])
    database.add_events("resp_1", [(2, b"c")])
    assert database.events("resp_1", 0) == [(1, b"b"), (2, b"c")]
    before = database.totals()[1]
    database.update(body(1, "completed"))
    assert database.totals()[1] == before + len("completed") - len("in_progress")
    database.delete("resp_1")
    assert database.events("resp_1", -1) == []
    database.add_events("resp_1", [(3, b"late")])
    assert database.events("resp_1", -1) == []


def test_items_are_found_in_inputs_and_outputs(database: Database) -> None:
    add(database, 1, output=[{"id": "msg_1", "text": "x"}])
    assert database.item("msg_1") == {"id": "msg_1", "text": "x"}
    assert database.item("item_1") == {"id": "item_1"}
    assert database.item("msg_2") is None


def test_who_is_cancelled_or_deleted_elsewhere_is_seen(tmp_path: Path) -> None:
    here, elsewhere = Database(tmp_path / "db"), Database(tmp_path / "db")
    for number in range(3):
        here.begin(body(number), [], streams=False)
    elsewhere.cancel("resp_1")
    elsewhere.delete("resp_2")
    assert here.ended(["resp_0", "resp_1", "resp_2"]) == ["resp_1", "resp_2"]
    here.close()
    elsewhere.close()


def test_a_dead_process_leaves_failures_not_hopes(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom tokenyard.http.responses.database import Database\n"
        "database = Database(Path(sys.argv[1]))\n"
        "for number in (1, 2):\n"
        "    body = {'id': f'resp_{number}', 'status': 'in_progress', 'previous_response_id': None, 'output': []}\n"
        "    database.begin(body, [], False)\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    path = tmp_path / "db"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, env=os.environ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        survivor = Database(path)
        alive = survivor.get("resp_1")
        assert alive is not None
        assert alive.running
        other.kill()
        other.wait()
    found = survivor.get("resp_1")
    assert found is not None
    assert (found.status, found.body["error"]["code"]) == ("failed", "server_error")
    survivor.close()
    fresh = Database(path)
    assert fresh.ended(["resp_2"]) == ["resp_2"], "opening buries all that the dead left"
    fresh.close()


def test_the_file_is_the_owners_alone(database: Database, tmp_path: Path) -> None:
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_a_write_takes_microseconds(tmp_path: Path) -> None:
    """Not a benchmark: one that took milliseconds would show that every write waits for the disk."""
    database = Database(tmp_path / "db")
    began = time.perf_counter()
    for number in range(100):
        add(database, number)
    assert (time.perf_counter() - began) / 200 < 0.005
    database.close()
