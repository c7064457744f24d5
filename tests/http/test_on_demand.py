"""Models that are not up, as clients see them: over the real pool's sockets, with a broker that is moved by hand."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from front import CHAT, COMPLETIONS, request
from models import CARD, DEMO
from onlooker import Onlooker, until
from prometheus_client.parser import text_string_to_metric_families
from scripted_broker import ScriptedBroker, scripted_broker
from starlette.types import ASGIApp

from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.wire import Adapter, Answer, LoadFailed, Loading, Status, Submit, UnloadModel, Want
from tokenyard.http.app import create_app
from tokenyard.http.catalog.policy import Policy
from tokenyard.http.keys import KeyRing
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool

MODEL = "org/tiny"
TINY = CARD._replace(names=[MODEL])
SAID = "Hello there!"
MESSAGES = [{"role": "user", "content": "hi"}]
STREAMING = {
    CHAT: {"model": MODEL, "messages": MESSAGES},
    COMPLETIONS: {"model": MODEL, "prompt": "hi"},
    "/v1/responses": {"model": MODEL, "input": "hi"},
    "/v1/messages": {"model": MODEL, "messages": MESSAGES, "max_tokens": 50},
    "/": {"model": MODEL, "inputs": "hi"},
}
"""A request of each API that streams, by its path."""
OTHERS = {
    "/v1/embeddings": {"model": MODEL, "input": "hi"},
    "/v1/messages/count_tokens": {"model": MODEL, "messages": MESSAGES},
    "/v1/responses/input_tokens": {"model": MODEL, "input": "hi"},
    "/v1/decisions": {"model": MODEL, "input": "hi", "questions": [{"type": "predicate", "instructions": "Is it?"}]},
    "/v1/systemone": {"model": MODEL, "state": "hi", "questions": {"a": {"type": "noul", "instructions": "Is it?"}}},
    "/tokenize": {"model": MODEL, "prompt": "hi"},
    "/detokenize": {"model": MODEL, "tokens": [5]},
    "/apply-template": {"model": MODEL, "messages": MESSAGES},
    "/v1/models/load": {"model": MODEL},
}
"""Of all that do not."""
COUNTING = ("/v1/messages/count_tokens", "/v1/responses/input_tokens")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change shows at once; otherwise every test would take a second."""
    for module in ("waiting", "model_routes"):
        monkeypatch.setattr(f"tokenyard.http.{module}.LOOK_S", 0.02)


class Front(NamedTuple):
    """A running application, and what it talks to."""

    app: ASGIApp
    pool: Pool
    broker: ScriptedBroker
    models_dir: Path

    def ask(self, path: str, body: Any, method: str = "POST") -> Onlooker:
        return Onlooker(self.app, method, path, body)

    async def waits(self) -> None:
        """Until somebody waits for the model."""
        await self.broker.hear(Want)

    async def get(self, path: str) -> Any:
        response = await request(self.app, "GET", path)
        assert response.status_code == 200, response.text
        return response.json()


Scene = Callable[[Front], Awaitable[None]]


@asynccontextmanager
async def running(folder: Path, policy: Policy | None = None, **options: Any) -> AsyncIterator[Front]:
    """An application that may load org/tiny, which nobody has loaded; its broker has welcomed it."""
    models_dir = folder / "models"
    shutil.copytree(DEMO, models_dir / MODEL)
    async with scripted_broker() as (broker, run_dir):
        given: dict[str, Any] = {
            "header_wait_s": 0.0,
            "store": "off",
            "models": policy or Policy(models_dir=models_dir),
        }
        front_options = FrontOptions(run_dir=run_dir.path, **{**given, **options})
        pool = Pool(BrokerAddress.of(run_dir.path))
        app = create_app(pool, front_options)
        to_app: asyncio.Queue[Any] = asyncio.Queue()
        from_app: asyncio.Queue[Any] = asyncio.Queue()
        life = asyncio.create_task(app({"type": "lifespan"}, to_app.get, from_app.put))
        await to_app.put({"type": "lifespan.startup"})
        assert (await from_app.get())["type"] == "lifespan.startup.complete"
        await pool.wait_welcomed(10)
        try:
            yield Front(app, pool, broker, models_dir)
        finally:
            await to_app.put({"type": "lifespan.shutdown"})
            assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
            await life


def play(folder: Path, scene: Scene, **given: Any) -> None:
    async def run() -> None:
        async with asyncio.timeout(40), running(folder, **given) as front:
            await scene(front)

    asyncio.run(run())


def loading(percent: int) -> Loading:
    return Loading(MODEL, "loading", percent / 100, f"{percent} % loaded")


# A stream shows its wait.


@pytest.mark.parametrize("path", STREAMING)
def test_a_stream_tells_how_far_its_model_is_and_then_goes_on(path: str, tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        async with front.ask(path, {**STREAMING[path], "stream": True}) as client:
            await front.waits()
            await front.broker.say(Loading(MODEL, "waiting", 0.0, "it waits for a device"))
            for percent in (7, 42):
                await until(lambda: client.starts)
                await front.broker.say(loading(percent))
                await until(lambda: f": loading {MODEL} {percent} %" in client.comments)  # noqa: B023
            assert client.status == 200
            assert dict(client.starts[0]["headers"])[b"content-type"].startswith(b"text/event-stream")
            await front.broker.up(TINY, SAID)
            await client.over()
        assert len(client.starts) == 1
        assert client.complete
        assert "Hello" in client.text
        assert "error" not in client.text.replace('"error":null', "")
        plain = await request(front.app, "POST", path, json={**STREAMING[path], "stream": True})
        assert shape(client.text) == shape(plain.text), "but for comments, as if the model had been up"

    play(tmp_path, scene)


def shape(text: str) -> list[Any]:
    """The names of events and of what is in them."""
    lines = [line for line in text.split("\n") if line and not line.startswith(":")]
    return [sorted(json.loads(line[6:])) if line.startswith("data: {") else line for line in lines]


def test_comments_begin_with_the_first_second_and_come_every_second(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with front.ask(CHAT, {**STREAMING[CHAT], "stream": True}) as client:
            await front.waits()
            await front.broker.say(loading(0))
            await asyncio.sleep(began_s + 0.8 - loop.time())
            assert not client.starts
            await until(lambda: client.starts)
            assert loop.time() - began_s < 1.6
            await asyncio.sleep(1.5)
            assert 2 <= client.comments.count(f": loading {MODEL} 0 %") <= 3

    play(tmp_path, scene, header_wait_s=1.0)


FAILURES = {
    CHAT: '{"error":{"message":"a broken shard","type":"server_error","param":"model","code":"model_load_failed"}}',
    COMPLETIONS: 'data: {"error":{"message":"a broken shard","type":"server_error",',
    "/v1/responses": '"status":"failed","background":false,"error":{"code":"server_error","message":"a broken shard"}',
    "/v1/messages": 'data: {"type":"error","error":{"type":"api_error","message":"a broken shard"}}',
    "/": 'data: {"error":"a broken shard","error_type":"generation"}',
}


@pytest.mark.parametrize("path", STREAMING)
def test_a_load_that_fails_late_is_the_apis_own_event(path: str, tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        async with front.ask(path, {**STREAMING[path], "stream": True}) as client:
            await front.waits()
            await until(lambda: client.comments)
            await front.broker.say(LoadFailed(MODEL, "model_load_failed", "a broken shard"))
            await client.over()
        assert client.complete
        assert FAILURES[path] in client.text
        if path in (CHAT, COMPLETIONS):
            assert client.text.endswith("data: [DONE]\n\n")
        if path == "/v1/responses":
            names = [line for line in client.text.split("\n") if line.startswith("event: ")]
            assert names == [f"event: response.{name}" for name in ("created", "in_progress", "failed")]

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("path", "stream"), [(path, stream) for path in STREAMING for stream in (True, False)] + [("/tokenize", False)]
)
def test_a_failure_before_the_headers_is_a_status(path: str, stream: bool, tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        body = STREAMING.get(path) or OTHERS[path]
        async with front.ask(path, {**body, "stream": True} if stream else body) as client:
            await front.waits()
            await front.broker.say(LoadFailed(MODEL, "model_too_large", "it is too large"))
            await client.over()
        assert client.status == 400
        assert "it is too large" in client.text

    play(tmp_path, scene, header_wait_s=5.0)


def test_what_a_request_lacks_is_told_in_its_stream_once_the_model_is_there(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        body = {**STREAMING[CHAT], "stream": True, "max_tokens": 10**6}
        async with front.ask(CHAT, body) as client:
            await front.waits()
            await until(lambda: client.starts)
            await front.broker.up(TINY)
            await client.over()
        assert '"code":"context_length_exceeded"' in client.text
        assert client.complete

    play(tmp_path, scene)


# Everything else just waits.


@pytest.mark.parametrize("path", [*STREAMING, *OTHERS])
def test_whoever_goes_while_waiting_wants_nothing_more(path: str, tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        async with front.ask(path, STREAMING.get(path) or OTHERS[path]) as client:
            await front.waits()
            await front.broker.say(loading(10))
            client.leave()
            await client.over()
        assert front.pool.loads.progress() == []
        assert (client.starts, client.text) == ([], "")

    play(tmp_path, scene)


def test_many_first_requests_share_one_load(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        paths = [CHAT, COMPLETIONS, "/v1/messages", "/v1/responses", "/"] * 4
        answers = [asyncio.create_task(request(front.app, "POST", path, json=STREAMING[path])) for path in paths]
        assert (await front.broker.hear(Want)).model == MODEL
        await front.waits()  # by the repetition all have come
        await front.broker.say(loading(50))
        assert front.broker.num_heard(Submit) == 0
        await front.broker.up(TINY, SAID)
        for answer in await asyncio.gather(*answers):
            assert answer.status_code == 200
            assert SAID in answer.text
        metrics = (await request(front.app, "GET", "/metrics")).text
        values = {
            (sample.name, sample.labels.get("outcome", "")): sample.value
            for family in text_string_to_metric_families(metrics)
            for sample in family.samples
        }
        assert values["tokenyard_model_loads_total", "up"] == 1
        assert values["tokenyard_model_load_seconds_count", ""] == 1

    play(tmp_path, scene)


def test_a_want_says_what_a_worker_needs(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        async with front.ask(CHAT, STREAMING[CHAT]):
            want = await front.broker.hear(Want)
        assert want.spec == f"{front.models_dir / MODEL},name={MODEL}"
        weights = (Path(DEMO) / "model.safetensors").stat().st_size
        assert 0.9 * weights < want.weight_bytes < weights
        assert want.cpu_bytes > 1.9 * want.weight_bytes, "bfloat16 is widened there"

    play(tmp_path, scene)


def test_a_model_that_may_not_be_loaded_is_refused_at_once(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        for path, body in {**STREAMING, **OTHERS}.items():
            for stream in [True, False] if path in STREAMING else [False]:
                given = {**body, "model": "org/other", **({"stream": True} if stream else {})}
                response = await request(front.app, "POST", path, json=given)
                assert response.status_code == 404, path
                assert "--models-dir" in response.text
        assert front.broker.num_heard(Want) == 0

    play(tmp_path, scene)


# What was up once.


async def bring_up(front: Front, card: Any = TINY) -> None:
    async with front.ask("/v1/models/load", {"model": MODEL}) as client:
        await front.waits()
        await front.broker.up(card, SAID)
        await client.over()
        assert client.status == 200


async def evict(front: Front) -> None:
    await front.broker.down(MODEL)
    await until(lambda: not front.pool.is_up(MODEL))
    front.broker.heard.clear()


def test_an_evicted_model_is_wanted_again_without_looking_it_up(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        await bring_up(front)
        await evict(front)
        shutil.rmtree(front.models_dir)
        async with front.ask(CHAT, {**STREAMING[CHAT], "stream": True}) as client:
            await front.waits()
            await front.broker.say(loading(42))
            await until(lambda: f": loading {MODEL} 42 %" in client.comments)
            await front.broker.up(TINY, "It is back.")
            await client.over()
        assert "back" in client.text

    play(tmp_path, scene)


def test_what_makes_no_job_needs_no_worker(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        await bring_up(front)
        await evict(front)
        for path in (
            "/tokenize",
            "/detokenize",
            "/apply-template",
            "/v1/messages/count_tokens",
            "/v1/responses/input_tokens",
        ):
            response = await request(front.app, "POST", path, json=OTHERS[path])
            assert response.status_code == 200, response.text
        assert front.broker.num_heard(Want) == 0

    play(tmp_path, scene)


def test_the_card_that_comes_back_counts(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        await bring_up(front)
        await evict(front)
        async with front.ask(CHAT, {**STREAMING[CHAT], "max_tokens": 100}) as client:
            await front.waits()
            await front.broker.up(TINY._replace(commit="another", context_length=64), SAID)
            await client.over()
        assert client.status == 400
        assert client.json["error"]["code"] == "context_length_exceeded"
        assert (await front.get(f"/v1/models/{MODEL}"))["commit"] == "another"

    play(tmp_path, scene)


@pytest.mark.parametrize("comes_back", [True, False])
def test_an_evicted_models_adapter_wants_its_base(comes_back: bool, tmp_path: Path) -> None:
    adapted = TINY._replace(adapters=[Adapter("sql", MODEL, "me/sql", 7, "v1")])

    async def scene(front: Front) -> None:
        await bring_up(front, adapted)
        assert (await front.get("/v1/models/sql"))["status"] == {"value": "loaded"}
        await evict(front)
        assert (await front.get("/v1/models/sql"))["status"] == {"value": "unloaded"}
        async with front.ask(CHAT, {**STREAMING[CHAT], "model": "sql"}) as client:
            assert (await front.broker.hear(Want)).model == MODEL
            await front.broker.up(adapted if comes_back else TINY)
            if comes_back:
                assert (await front.broker.hear(Submit)).model == "sql"
            else:
                await client.over()
                assert (client.status, client.json["error"]["code"]) == (404, "model_not_found")

    play(tmp_path, scene)


# Lists and loads by hand.


def test_models_are_listed_with_how_they_are(tmp_path: Path) -> None:
    async def tell_status(broker: ScriptedBroker) -> None:
        """What the broker has to say: one of its own posts starts, and another front's model is on its way."""
        posts = [{"model": "named", "inc": "ab", "leaving": False}, {"model": "gone", "inc": "", "leaving": True}]
        workers = [{"inc": "ab", "load": {"loading_percent": 30}}]
        loads = [{"model": "other/model", "phase": "waiting", "fraction": 0.0, "words": "it waits", "waiting_s": 1.5}]
        while True:
            message = await broker.hear(Status)
            await broker.say(
                Answer(message.req, "", {"broker": {}, "posts": posts, "loads": loads, "workers": workers})
            )

    async def scene(front: Front) -> None:
        telling = asyncio.create_task(tell_status(front.broker))
        entries = {entry["id"]: entry for entry in (await front.get("/v1/models"))["data"]}
        assert {name: entry["status"] for name, entry in entries.items()} == {
            MODEL: {"value": "unloaded"},
            "named": {"value": "loading", "phase": "loading", "fraction": 0.3, "words": "30 % loaded"},
            "other/model": {"value": "loading", "phase": "waiting", "fraction": 0.0, "words": "it waits"},
        }
        assert entries[MODEL]["weight_bytes"] > 1 << 20
        async with front.ask(CHAT, STREAMING[CHAT]):
            await front.waits()
            await front.broker.say(loading(42))
            await until(lambda: front.pool.loads.progress()[0].fraction)
            shown = await front.get(f"/v1/models/{MODEL}")
            assert shown["status"] == {"value": "loading", "phase": "loading", "fraction": 0.42, "words": "42 % loaded"}
        await bring_up(front)
        assert (await front.get(f"/v1/models/{MODEL}"))["status"] == {"value": "loaded"}
        assert (
            next(one for one in (await front.get("/v1/models"))["data"] if one["id"] == MODEL)["context_length"] == 2048
        )
        await evict(front)
        gone = await front.get(f"/v1/models/{MODEL}")
        assert (gone["status"], gone["context_length"]) == ({"value": "unloaded"}, 2048)
        telling.cancel()

    play(tmp_path, scene)


def progress_events(text: str) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


def test_loading_by_hand_has_transformers_events(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        async with front.ask("/load_model", {"model": MODEL}) as client:
            await front.waits()
            await front.broker.say(Loading(MODEL, "starting", 0.0, "its process starts"))
            await until(lambda: "starting" in client.text)
            await front.broker.say(loading(42))
            await until(lambda: "42" in client.text)
            await front.broker.up(TINY)
            await client.over()
        events = progress_events(client.text)
        assert {"status": "loading", "model": MODEL, "stage": "starting"} in events
        weights = {"status": "loading", "model": MODEL, "stage": "weights", "progress": {"current": 42, "total": 100}}
        assert weights in events
        assert events[-1] == {"status": "ready", "model": MODEL, "cached": False}
        again = await request(front.app, "POST", "/load_model", json={"model": MODEL})
        assert progress_events(again.text) == [{"status": "ready", "model": MODEL, "cached": True}]

    play(tmp_path, scene)


def test_loading_by_hand_fails_in_words(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        async with front.ask("/load_model", {"model": MODEL}) as client:
            await front.waits()
            await front.broker.say(LoadFailed(MODEL, "model_load_failed", "a broken shard"))
            await client.over()
        assert progress_events(client.text)[-1] == {"status": "error", "model": MODEL, "message": "a broken shard"}
        refused = await request(front.app, "POST", "/load_model", json={"model": "org/other"})
        assert progress_events(refused.text)[-1]["status"] == "error"
        assert (await request(front.app, "POST", "/load_model", json={})).status_code == 400

    play(tmp_path, scene)


def test_a_model_is_unloaded_by_hand(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        await bring_up(front, TINY._replace(names=[MODEL, "alias"]))
        async with front.ask("/v1/models/unload", {"model": "alias"}) as client:
            message = await front.broker.hear(UnloadModel)
            assert message.model == MODEL
            await front.broker.say(Answer(message.req, ""))
            await client.over()
        assert client.json == {"id": MODEL, "object": "model", "unloaded": True}
        async with front.ask("/v1/models/unload", {"model": "org/other"}) as client:
            message = await front.broker.hear(UnloadModel)
            await front.broker.say(Answer(message.req, "no agent has it loaded"))
            await client.over()
        assert (client.status, client.json["error"]["message"]) == (404, "no agent has it loaded")

    play(tmp_path, scene)


def test_a_key_is_needed_where_there_are_keys(tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        for path in ("/load_model", "/v1/models/load", "/v1/models/unload"):
            assert (await request(front.app, "POST", path, json={"model": MODEL})).status_code == 401

    play(tmp_path, scene, api_keys=KeyRing(["secret"]))


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        (Policy(), 503),
        (Policy(named=("demo",)), 503),
        (Policy(named=("demo",), allow=("org/*",)), 503),
        (Policy(allow=("org/*",)), 200),
    ],
)
def test_a_front_that_may_load_is_ready_but_for_what_was_named(policy: Policy, status: int, tmp_path: Path) -> None:
    async def scene(front: Front) -> None:
        assert (await request(front.app, "GET", "/ready")).status_code == status
        assert (await request(front.app, "GET", "/health")).status_code == 200

    play(tmp_path, scene, policy=policy)
