"""Conversations: made, added to by hand and by responses, listed, bounded."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from desk import Desk
from openai.types.conversations import Conversation, ConversationItemList
from scripted import Job

from tokenyard.http.responses import conversations
from tokenyard.http.responses.database import Database

PATH = "/v1/conversations"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "responses.db")


async def begin(desk: Desk, *texts: str) -> str:
    items = [{"role": "user", "content": text} for text in texts]
    made = (await desk.ask("POST", PATH, json={"items": items, "metadata": {"topic": "x"}})).json()
    Conversation.model_validate(made, strict=True)
    assert made["metadata"] == {"topic": "x"}
    return str(made["id"])


async def texts(desk: Desk, conversation: str) -> list[str]:
    listed = (await desk.ask("GET", f"{PATH}/{conversation}/items?order=asc&limit=100")).json()
    ConversationItemList.model_validate(listed, strict=True)
    return [item["content"][0]["text"] for item in listed["data"]]


def test_responses_go_on_from_a_conversation_and_add_to_it(desk: Desk) -> None:
    async def run() -> None:
        conversation = await begin(desk, "My name is Ada.")
        body = await desk.create(input="Who am I?", conversation=conversation)
        assert body["conversation"] == {"id": conversation}
        assert "My name is Ada." in desk.prompt
        await desk.create(input="And now?", conversation={"id": conversation}, background=True)
        said = ["My name is Ada.", "Who am I?", "Hello 🤖!", "And now?", "Hello 🤖!"]
        async with asyncio.timeout(10):
            while await texts(desk, conversation) != said:
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_what_fails_adds_nothing(desk: Desk) -> None:
    def play(job: Job) -> None:
        job.run()
        asyncio.get_running_loop().call_later(0.05, job.fail, "worker_error")

    async def run() -> None:
        conversation = await begin(desk, "a")
        desk.pool.play = play
        assert (await desk.stream(conversation=conversation))[-1]["type"] == "response.failed"
        assert await texts(desk, conversation) == ["a"]

    asyncio.run(run())


def test_items_and_metadata_are_changed_by_hand(desk: Desk) -> None:
    async def run() -> None:
        conversation = await begin(desk)
        path = f"{PATH}/{conversation}"
        items = [{"role": "user", "content": text} for text in "abc"]
        added = (await desk.ask("POST", f"{path}/items", json={"items": items})).json()["data"]
        assert await texts(desk, conversation) == ["a", "b", "c"]
        assert (await desk.ask("GET", f"{path}/items/{added[1]['id']}")).json() == added[1]
        assert (await desk.ask("DELETE", f"{path}/items/{added[1]['id']}")).json()["id"] == conversation
        assert await texts(desk, conversation) == ["a", "c"]
        await desk.create(input=[{"id": added[0]["id"]}])
        changed = (await desk.ask("POST", path, json={"metadata": {"topic": "y"}})).json()
        assert (await desk.ask("GET", path)).json() == changed
        assert changed["metadata"] == {"topic": "y"}
        wrong = [("", {}, "metadata"), ("", {"metadata": {}, "items": items}, "items")]
        wrong += [("/items", {"items": items, "metadata": {"a": "b"}}, "metadata"), ("/items", {}, "items")]
        for tail, body, param in wrong:
            answer = await desk.ask("POST", path + tail, json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert (await desk.ask("GET", path)).json() == changed
        assert (await desk.ask("POST", path, json={"metadata": None})).json()["metadata"] == {}
        deleted = (await desk.ask("DELETE", path)).json()
        assert deleted == {"id": conversation, "object": "conversation.deleted", "deleted": True}
        for method, tail in (("GET", ""), ("POST", ""), ("DELETE", ""), ("GET", "/items"), ("GET", "/items/x")):
            answer = await desk.ask(method, path + tail, json={})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert (await desk.refuse(conversation=conversation))["param"] == "conversation"

    asyncio.run(run())


def test_an_empty_body_begins_an_empty_conversation(desk: Desk) -> None:
    async def run() -> None:
        made = (await desk.ask("POST", PATH)).json()
        assert await texts(desk, made["id"]) == []
        assert (await desk.create(conversation=made["id"]))["status"] == "completed"

    asyncio.run(run())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"items": [{"role": "robot", "content": "x"}]}, "items.0.role"),
    ({"items": [{"id": "msg_1"}]}, "items.0.id"),
    ({"items": [{"role": "user", "content": "x"}] * 21}, "items"),
    ({"metadata": {"a": 1}}, "metadata.a"),
]


@pytest.mark.parametrize(("body", "param"), BAD)
def test_bad_bodies_are_refused_by_name(desk: Desk, body: dict[str, Any], param: str) -> None:
    answer = asyncio.run(desk.ask("POST", PATH, json=body))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_without_a_store_there_are_none() -> None:
    async def run() -> None:
        desk = Desk(None)
        assert (await desk.ask("POST", PATH, json={})).status_code == 400
        assert (await desk.refuse(conversation="conv_1"))["param"] == "conversation"

    asyncio.run(run())


def test_a_conversation_needs_its_responses_kept(desk: Desk) -> None:
    assert asyncio.run(desk.refuse(conversation="conv_1", store=False))["param"] == "conversation"


def test_the_longest_unused_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "MAX_CONVERSATIONS", 3)
    database = Database(tmp_path / "db", max_bytes=10_000)
    ids = [conversations.create(database, [{"id": str(number)}], {}).id for number in range(3)]
    conversations.add(database, ids[0], [{"id": "x"}])
    ids.append(conversations.create(database, [], {}).id)
    assert [conversations.find(database, one) is not None for one in ids] == [True, False, True, True]
    conversations.add(database, ids[3], [{"id": "y", "text": "x" * 9_960}])
    assert [conversations.find(database, one) is not None for one in ids] == [True, False, False, True]
    for one in (ids[0], ids[3]):
        conversations.delete(database, one)
    assert database.totals("conversations") == (0, 0)
    database.close()
