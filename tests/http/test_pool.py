"""The front's client of the pool, over real sockets: what requests may call a model, and how one is waited for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from models import CARD, demo_tokenizer
from scripted_broker import ScriptedBroker, scripted_broker

from tokenyard.broker.config import SUBMIT_REPEAT_S
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import (
    Answer,
    Cancel,
    Finish,
    LoadFailed,
    Loading,
    Lost,
    Placed,
    Refused,
    Reject,
    Submit,
    UnloadModel,
    Want,
    WorkerInfo,
    WorkerUp,
)
from tokenyard.http import links, roster
from tokenyard.http import pool as pool_module
from tokenyard.http.pool import JobRequest, Pool

MODEL = CARD._replace(names=["org/m", "m@home"], commit="c0ffee", revision="v1")
WANT = Want("org/m", "org/m@c0ffee", 123)

Scene = Callable[[Pool, ScriptedBroker], Awaitable[Any]]


@asynccontextmanager
async def front(load_timeout_s: float = 600.0) -> AsyncIterator[tuple[Pool, ScriptedBroker]]:
    """A front's pool, and the broker that has welcomed it."""
    async with scripted_broker() as (broker, run_dir):
        pool = Pool(BrokerAddress.of(run_dir.path), load_timeout_s)
        await pool.start()
        try:
            await pool.wait_welcomed(10)
            yield pool, broker
        finally:
            await pool.close()


def play(scene: Scene, **given: Any) -> Any:
    async def run() -> Any:
        async with asyncio.timeout(30), front(**given) as (pool, broker):
            return await scene(pool, broker)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["org/m", "org/m@v1", "org/m@c0ffee", "m@home", "m@home@v1"], True),
        (["org/m@v2", "org/m@", "m", "org", "m@v1", "@v1", ""], False),
    ],
)
def test_a_model_is_found_by_its_names_with_or_without_its_revision(names: list[str], found: bool) -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        await broker.up(MODEL)
        await until(lambda: pool.ready)
        assert [pool.find(name) is not None for name in names] == [found] * len(names)

    play(scene)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def wanted(pool: Pool, count: int = 1) -> "list[asyncio.Task[Any]]":
    """So many that wait for the model."""
    tasks = [asyncio.create_task(pool.want(WANT)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


def test_many_wait_for_one_load() -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        waiting = await wanted(pool, 20)
        assert await broker.hear(Want) == WANT
        for percent in (10, 42):
            await broker.say(Loading(WANT.model, "loading", percent / 100, f"{percent} % loaded"))
        await until(lambda: [one.fraction for one in pool.loads.progress()] == [0.42])
        assert await broker.hear(Want) == WANT, "it is repeated"
        assert broker.num_heard(Want) == 0
        await broker.up(MODEL)
        assert await asyncio.gather(*waiting) == [MODEL] * 20
        assert await pool.want(WANT) == MODEL, "it is up: there is nothing to wait for"
        assert pool.loads.progress() == []
        assert pool.figures.counts["model_loads"] == {(WANT.model, "up"): 1}
        await asyncio.sleep(2 * SUBMIT_REPEAT_S)
        assert broker.num_heard(Want) == 0

    play(scene)


def test_a_want_ends_with_the_last_who_waits() -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        first, second = await wanted(pool, 2)
        await broker.hear(Want)
        first.cancel()
        await broker.hear(Want)
        second.cancel()
        await asyncio.sleep(2 * SUBMIT_REPEAT_S)
        assert broker.num_heard(Want) == 0
        assert pool.figures.counts["model_loads"] == {(WANT.model, "cancelled"): 1}

    play(scene)


def test_all_who_wait_hear_why_a_load_failed() -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        waiting = await wanted(pool, 3)
        await broker.hear(Want)
        await broker.say(LoadFailed(WANT.model, "model_too_large", "it is too large"))
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(failure) for failure in failures] == ["it is too large"] * 3

    play(scene)


def test_a_new_broker_hears_what_is_wanted() -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        (waiting,) = await wanted(pool)
        await broker.hear(Want)
        await broker.say(Loading(WANT.model, "loading", 0.9, ""))
        broker.stop()
        broker.heard.clear()
        await broker.start()
        assert await broker.hear(Want) == WANT
        await broker.up(MODEL)
        assert await waiting == MODEL

    play(scene)


def test_a_wait_is_bounded() -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        with pytest.raises(TokenyardError, match=r"not up within 0.2 s") as caught:
            await pool.want(WANT)
        assert caught.value.code == "model_loading"

    play(scene, load_timeout_s=0.2)


class Sink:
    """What one job was told."""

    def __init__(self) -> None:
        self.text = ""
        self.error: TokenyardError | None = None
        self.over = asyncio.Event()

    def delta(self, token_ids: list[int], extra: dict[str, Any], finish: Finish | None) -> None:
        self.text += demo_tokenizer().backend.decode(token_ids, skip_special_tokens=True)
        if finish is not None:
            self.over.set()

    def failed(self, error: TokenyardError) -> None:
        self.error = error
        self.over.set()


def forgets(once: bool) -> Callable[[Submit], Reject | None]:
    """A broker that does not know the model of a job, or of its first attempt."""

    def on_submit(submit: Submit) -> Reject | None:
        if once and submit.attempt > 1:
            return None
        return Reject(submit.job, submit.attempt, "model_not_found", "no such model", 0)

    return on_submit


async def evicted(pool: Pool, broker: ScriptedBroker) -> None:
    """The model was up on demand, made room, and the broker knows nothing of it any more."""
    (waiting,) = await wanted(pool)
    await broker.hear(Want)
    await broker.up(MODEL)
    await waiting
    await broker.down(WANT.model)
    await until(lambda: not pool.ready)


def test_a_job_whose_model_was_forgotten_has_it_loaded_again() -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        await evicted(pool, broker)
        broker.on_submit = forgets(once=True)
        sink = Sink()
        pool.submit(JobRequest(WANT.model, [1, 2, 3], Params(max_tokens=9)), sink)
        assert await broker.hear(Want) == WANT
        await broker.up(MODEL, "It is back.")
        await sink.over.wait()
        assert (sink.text, sink.error) == ("It is back.", None)

    play(scene)


@pytest.mark.parametrize("came", [True, False])
def test_a_job_is_submitted_again_once_and_only_for_a_model_that_came(came: bool) -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        await evicted(pool, broker)
        broker.on_submit = forgets(once=False)
        sink = Sink()
        pool.submit(JobRequest(WANT.model, [1, 2, 3], Params(max_tokens=9)), sink)
        await broker.hear(Want)
        if came:
            await broker.up(MODEL)
        else:
            await broker.say(LoadFailed(WANT.model, "model_load_failed", "a broken shard"))
        await sink.over.wait()
        assert sink.error is not None
        assert sink.error.code == ("model_not_found" if came else "model_load_failed")
        assert broker.num_heard(Submit) == (2 if came else 1)

    play(scene)


def test_a_job_that_is_cancelled_while_its_model_comes_back_wants_it_no_more() -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        await evicted(pool, broker)
        broker.on_submit = forgets(once=True)
        job = pool.submit(JobRequest(WANT.model, [1, 2, 3], Params(max_tokens=9)), Sink())
        await broker.hear(Want)
        pool.cancel(job)
        assert await broker.hear(Cancel) == Cancel(job)
        assert pool.loads.progress() == []

    play(scene)


def test_a_model_that_nobody_wanted_here_is_not_brought_back() -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        broker.on_submit = forgets(once=False)
        sink = Sink()
        pool.submit(JobRequest("org/m", [1], Params(max_tokens=9)), sink)
        await sink.over.wait()
        assert sink.error is not None
        assert (sink.error.code, sink.error.words) == ("model_not_found", "no such model")

    play(scene)


def test_all_that_is_lost_with_a_worker_resumes_before_the_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the broker takes to name them all."""
    monkeypatch.setattr(pool_module, "TICK_S", 60.0)

    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        jobs = [pool.submit(JobRequest("org/m", [1], Params(max_tokens=9)), Sink()) for _ in range(2)]
        for job in jobs:
            await broker.hear(Submit)
            await broker.say(Placed(job, 1, b"worker__"))
        for job in jobs:
            await broker.say(Lost(job, 1, 0))
            await asyncio.sleep(0.003)
        again = [await broker.hear(Submit) for _ in jobs]
        assert [(submit.job, submit.attempt) for submit in again] == [(job, 2) for job in jobs]

    play(scene)


def test_unloading_is_asked_for_until_it_is_answered() -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        unloading = asyncio.create_task(pool.unload("org/m"))
        first = await broker.hear(UnloadModel)
        assert await broker.hear(UnloadModel) == first == UnloadModel(first.req, "org/m")
        await broker.say(Answer(first.req, ""))
        await unloading
        refused = asyncio.create_task(pool.unload("org/m"))
        second = await broker.hear(UnloadModel)
        assert second.req != first.req
        await broker.say(Answer(second.req, "no agent has it"))
        with pytest.raises(TokenyardError, match="no agent has it"):
            await refused

    play(scene)


@pytest.mark.parametrize(
    ("endpoint", "key", "words"),
    [
        ("tcp://127.0.0.1:9", "k" * 40, "asks for keys: give --keys DIR"),
        ("tcp://192.0.2.1:9", "", "what leaves this machine must be encrypted"),
        ("tcp://127.0.0.1:9", "", "nobody answers at tcp://127.0.0.1:9"),
    ],
)
def test_a_job_on_a_worker_out_of_reach_fails_with_words(
    endpoint: str, key: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for ever: the broker, which reaches the worker, cannot know."""
    monkeypatch.setattr(links, "REACH_LOOKS", 1)

    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        await broker.say(WorkerUp(WorkerInfo(b"beyond__", endpoint, MODEL, key)))
        await until(lambda: pool.cards())
        sink = Sink()
        job = pool.submit(JobRequest("org/m", [1], Params(max_tokens=1)), sink)
        await broker.hear(Submit)
        await broker.say(Placed(job, 1, b"beyond__"))
        await sink.over.wait()
        assert sink.error
        assert sink.error.code == "pool_unavailable"
        assert words in sink.error.words
        assert await broker.hear(Cancel) == Cancel(job), "its worker need not go on"

    play(scene)


def test_of_models_that_were_up_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "MAX_CARDS", 2)
    known = roster.Roster()
    for index in range(6):
        known.come(WorkerInfo(bytes([index] * 8), "ipc://w", CARD._replace(names=[str(index)])))
        if index:
            known.go(bytes([index] * 8))
    known.come(WorkerInfo(bytes([7] * 8), "ipc://w", CARD._replace(names=["7"])))
    assert [card.names[0] for card in known.cards()] == ["0", "4", "5", "7"]


def test_why_a_front_is_refused_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(pool: Pool, broker: ScriptedBroker) -> None:
        for words in ("old", "old", "new"):
            await broker.say(Refused(words))
        await until(lambda: "new" in caplog.text)

    play(scene)
    told = [one.message for one in caplog.records if "refuses" in one.message]
    assert told == ["the broker refuses this process: old", "the broker refuses this process: new"]
