"""Responses without their client: made, polled, followed, cancelled, through any front of a pool."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, named_events
from scripted import Job
from shapes import EVENTS, unknown_to_openai

from tokenyard.http.responses import background
from tokenyard.http.responses.database import Database

ENDED = ("completed", "failed", "cancelled", "incomplete")


def hold(job: Job) -> None:
    """A job that runs, says something, and goes on when the test moves it."""
    job.run()
    job.say("Hello")


async def poll(desk: Desk, response_id: str, until: Callable[[str], bool] = ENDED.__contains__) -> dict[str, Any]:
    """The response once its status is such."""
    async with asyncio.timeout(10):
        while True:
            body: dict[str, Any] = (await desk.ask("GET", f"/{response_id}")).json()
            if until(body["status"]):
                return body
            await asyncio.sleep(0.01)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "responses.db"


def test_it_is_queued_then_polled_through_any_front(store: Path) -> None:
    async def run() -> None:
        here, there = Desk(store, hold), Desk(store)
        body = await here.create(background=True)
        assert (body["status"], body["background"], body["output"]) == ("queued", True, [])
        running = await poll(there, body["id"], lambda status: status != "queued")
        assert running["status"] == "in_progress"
        here.pool.jobs[0].end()
        done = await poll(there, body["id"])
        assert (done["status"], done["output"][0]["content"][0]["text"]) == ("completed", "Hello")
        assert done["usage"]["output_tokens"] > 0
        follow_up = await there.create(previous_response_id=body["id"])
        assert follow_up["status"] == "completed"

    asyncio.run(run())


def test_going_on_from_one_that_still_runs_is_refused(store: Path) -> None:
    async def run() -> None:
        desk = Desk(store, hold)
        body = await desk.create(background=True)
        assert (await desk.refuse(previous_response_id=body["id"]))["param"] == "previous_response_id"

    asyncio.run(run())


@pytest.mark.parametrize("elsewhere", [False, True])
def test_it_is_cancelled_through_any_front(store: Path, elsewhere: bool) -> None:
    async def run() -> None:
        here = Desk(store, hold)
        asked = Desk(store) if elsewhere else here
        body = await here.create(background=True)
        await poll(here, body["id"], lambda status: status == "in_progress")
        cancelled = await asked.ask("POST", f"/{body['id']}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        async with asyncio.timeout(5):
            while not here.pool.jobs[0].cancelled:
                await asyncio.sleep(0.01)
        assert (await poll(asked, body["id"]))["status"] == "cancelled"
        again = await asked.ask("POST", f"/{body['id']}/cancel")
        assert again.json()["status"] == "cancelled"

    asyncio.run(run())


def test_cancels_are_heard_again_after_the_store_could_not_be_used(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "WATCH_S", 0.01)

    async def run() -> None:
        here, there = Desk(store, hold), Desk(store)
        body = await here.create(background=True)
        other = await here.create(background=True)
        await poll(here, other["id"], lambda status: status == "in_progress")
        database = Database(store)
        database.connection.execute("ALTER TABLE responses RENAME TO away")
        here.pool.jobs[1].end()
        await asyncio.sleep(0.1)  # several looks
        database.connection.execute("ALTER TABLE away RENAME TO responses")
        database.close()
        await there.ask("POST", f"/{body['id']}/cancel")
        async with asyncio.timeout(5):
            while not here.pool.jobs[0].cancelled:
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert caplog.text.count("no such table") == 1, "the rest is counted"


def test_what_is_deleted_runs_no_longer(store: Path) -> None:
    async def run() -> None:
        here, there = Desk(store, hold), Desk(store)
        body = await here.create(background=True)
        await there.ask("DELETE", f"/{body['id']}")
        async with asyncio.timeout(5):
            while not here.pool.jobs[0].cancelled:
                await asyncio.sleep(0.01)
        assert (await here.ask("GET", f"/{body['id']}")).status_code == 404

    asyncio.run(run())


def test_a_failure_is_found_by_polling(store: Path) -> None:
    async def run() -> None:
        desk = Desk(store, lambda job: job.fail("queue_full"))
        body = await desk.create(background=True)
        failed = await poll(desk, body["id"])
        assert (failed["status"], failed["error"]["code"]) == ("failed", "rate_limit_exceeded")

    asyncio.run(run())


def test_it_streams_and_can_be_followed_from_anywhere_in_the_stream(store: Path) -> None:
    async def run() -> None:
        here, there = Desk(store), Desk(store)
        events = await here.stream(background=True)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [event["type"] for event in events[:3]] == [
            "response.created",
            "response.queued",
            "response.in_progress",
        ]
        assert [event["type"] for event in events].count("response.completed") == 1
        path = f"/{events[0]['response']['id']}?stream=true"
        assert named_events(await there.ask("GET", path)) == events
        assert named_events(await there.ask("GET", f"{path}&starting_after=4")) == events[5:]
        last = events[-1]["sequence_number"]
        assert (await there.ask("GET", f"{path}&starting_after={last}")).text == ""

    asyncio.run(run())


def test_all_events_are_written_before_the_end_is(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FLUSH_S", 30)
    events = asyncio.run(Desk(store).stream(background=True))
    assert "".join(event["delta"] for event in events if "delta" in event) == "Hello 🤖!"


def test_a_follower_sees_events_while_they_are_made_and_its_end_when_cancelled(store: Path) -> None:
    async def run() -> None:
        def play(job: Job) -> None:
            hold(job)
            job.say(" world")

        here, there = Desk(store, play), Desk(store)
        following = asyncio.create_task(here.stream(background=True))
        response_id = await the_only_one(store)
        await there.ask("POST", f"/{response_id}/cancel")
        events = await following
        assert "".join(event["delta"] for event in events if "delta" in event) == "Hello world"
        assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.incomplete", "cancelled")
        assert {event["type"] for event in events} <= EVENTS.keys()

    asyncio.run(run())


def test_a_follower_is_told_that_the_store_fails_and_misses_nothing_later(store: Path) -> None:
    async def run() -> None:
        here, there = Desk(store, hold), Desk(store)
        following = asyncio.create_task(here.stream(background=True))
        response_id = await the_only_one(store)
        database = Database(store)
        database.connection.execute("ALTER TABLE events RENAME TO away")
        told = await following
        database.connection.execute("ALTER TABLE away RENAME TO events")
        database.close()
        *before, error = told
        assert (error["type"], error["code"], error["sequence_number"]) == (
            "error",
            "store_unavailable",
            len(before) - 1,
        )
        assert unknown_to_openai(error) == set()
        here.pool.jobs[0].end()
        path = f"/{response_id}?stream=true&starting_after={error['sequence_number']}"
        whole = before + named_events(await there.ask("GET", path))
        assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
        assert whole[-1]["type"] == "response.completed"

    asyncio.run(run())


async def the_only_one(store: Path) -> str:
    """The id of the one response in the store, once it runs and all its events so far are written."""
    database = Database(store)
    query = "SELECT id FROM responses WHERE status = 'in_progress' AND (SELECT count(*) FROM events) > 5"
    async with asyncio.timeout(10):
        while not (rows := database.connection.execute(query).fetchall()):
            await asyncio.sleep(0.01)
    database.close()
    return str(rows[0][0])


def test_one_that_does_not_stream_cannot_be_followed(store: Path) -> None:
    async def run() -> None:
        desk = Desk(store)
        body = await desk.create(background=True)
        answer = await desk.ask("GET", f"/{body['id']}?stream=true")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")

    asyncio.run(run())


def test_a_front_that_drains_finishes_what_it_makes(store: Path) -> None:
    async def run() -> None:
        here, there = Desk(store, hold, drain_s=10), Desk(store)
        async with here.lifespan():
            body = await here.create(background=True)
            await poll(here, body["id"], lambda status: status == "in_progress")
            asyncio.get_running_loop().call_later(0.1, here.pool.jobs[0].end)
        assert (await poll(there, body["id"]))["status"] == "completed"

    asyncio.run(run())


def test_a_front_that_goes_down_leaves_failures(store: Path) -> None:
    async def run() -> None:
        here, there = Desk(store, hold), Desk(store)
        async with here.lifespan():
            body = await here.create(background=True)
            await poll(here, body["id"], lambda status: status == "in_progress")
        failed = await poll(there, body["id"])
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert here.pool.jobs[0].cancelled

    asyncio.run(run())
