"""Adapters from the broker's word to the engine: what the desk makes of it, and the real engine's thread."""

from pathlib import Path

import pytest
from engines import Bench, greedy, job_of, prompt_of, save_tiny
from loras import save_lora
from reference import Reference
from yard import wait_until

from tokenyard.broker.codec import pack_ids
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.identity import Identity
from tokenyard.broker.wire import (
    PLAIN,
    Adapter,
    AdapterFailed,
    AdapterKey,
    Card,
    LoadAdapter,
    Start,
    UnloadAdapter,
    WorkerHello,
)
from tokenyard.workers.adapter_desk import Adopt, Retire
from tokenyard.workers.desk import Action, Add, Desk, ToBroker
from tokenyard.workers.engine_thread import EngineThread

X = Adapter("x", "m", "/x", 5)
LOADED = X._replace(version="v1")
KEY = AdapterKey("x", "v1")


@pytest.fixture
def desk() -> Desk:
    desk = Desk(Identity.of(b"worker"), 7, "ipc:///w", "m on cpu", 4, 0.0)
    desk.loaded(Card(["m"], "/m", "c0", 128, 1024, 16, "paged", "float32", "cpu", 100, [2]))
    return desk


def orders(actions: list[Action]) -> list[Action]:
    """What is for the engine."""
    return [one for one in actions if not isinstance(one, ToBroker)]


def held(actions: list[Action]) -> list[Adapter]:
    """What the last hello says is loaded."""
    (hello,) = [one.message for one in actions if isinstance(one, ToBroker)]
    assert isinstance(hello, WorkerHello)
    assert hello.card
    return hello.card.adapters


def load(desk: Desk, adapter: Adapter) -> list[Action]:
    return desk.from_broker(LoadAdapter(adapter), 0.0)


def test_an_adapter_is_loaded_once_and_the_hello_tells(desk: Desk) -> None:
    assert orders(load(desk, X)) == [Adopt(X)]
    assert load(desk, X) == [ToBroker(desk._hello())], "it is on its way: nothing twice"
    assert held(desk.adopted(LOADED)) == [LOADED]
    assert held(load(desk, X)) == [LOADED]
    assert orders(load(desk, LOADED)) == []
    desk.check()


def test_a_job_is_computed_with_what_its_start_names(desk: Desk) -> None:
    start = Start(b"front__1", 1, 1, "generate", b"\1\0\0\0", b"", greedy(4), "x", "v1")
    (add,) = orders(desk.from_broker(start, 0.0))
    assert isinstance(add, Add)
    assert add.adapter == KEY


def test_another_version_than_the_one_wanted_is_let_go_of(desk: Desk) -> None:
    load(desk, X)
    desk.adopted(LOADED)
    other = X._replace(version="v2")
    assert orders(load(desk, other)) == [Retire(KEY), Adopt(other)]


def test_what_is_unloaded_while_it_is_read_never_comes(desk: Desk) -> None:
    load(desk, X)
    assert orders(desk.from_broker(UnloadAdapter("x", 5), 0.0)) == []
    actions = desk.adopted(LOADED)
    assert orders(actions) == [Retire(KEY)]
    assert held(actions) == []
    load(desk, X)
    desk.from_broker(UnloadAdapter("x", 5), 0.0)
    assert desk.not_adopted(X, TokenyardError("invalid_value", "no")) == []


def test_the_same_files_loaded_again_stay_when_the_first_load_goes(desk: Desk) -> None:
    again = LOADED._replace(stamp=9)
    for one in (LOADED, again):
        load(desk, one)
        desk.adopted(one)
    actions = desk.from_broker(UnloadAdapter("x", 5), 0.0)
    assert (orders(actions), held(actions)) == ([], [again])
    assert orders(desk.from_broker(UnloadAdapter("x", 9), 0.0)) == [Retire(KEY)]
    assert held(desk.from_broker(UnloadAdapter("x", 9), 0.0)) == [], "said again: nothing is there"


def test_a_failure_is_told_and_may_be_tried_again(desk: Desk) -> None:
    load(desk, X)
    failed = AdapterFailed("x", 5, "model_not_found", "no such directory", "lora_path")
    assert desk.not_adopted(X, TokenyardError("model_not_found", "no such directory", "lora_path")) == [
        ToBroker(failed)
    ]
    assert orders(load(desk, X)) == [Adopt(X)]


# The thread.


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"), "llama")


class Running:
    """An engine's thread."""

    def __init__(self, bench: Bench) -> None:
        self.thread = EngineThread(lambda _: (bench.engine(), bench.loaded.card))
        self.thread.start()

    def adopt(self, adapter: Adapter) -> tuple[Adapter, TokenyardError | None]:
        self.thread.put(Adopt(adapter))
        wait_until(lambda: self.thread.adopted or self.thread.failure, "the adapter")
        assert self.thread.failure is None
        return self.thread.adopted.popleft()

    def ids(self, adapter: AdapterKey) -> list[int]:
        """Of a job that ends."""
        self.thread.put(Add(job_of(1), pack_ids(prompt_of(20)), b"", greedy(12), adapter=adapter))
        deltas = []
        while not deltas or deltas[-1].finish is None:
            wait_until(lambda: self.thread.results or self.thread.failure, "a step")
            assert self.thread.failure is None
            deltas += [delta for _, delta in self.thread.results.popleft()]
        return [token for delta in deltas for token in delta.token_ids]


@pytest.fixture(scope="module")
def running(base: Path) -> Running:
    return Running(Bench.load(base, max_loras=1))


def test_what_is_adopted_is_computed_until_it_is_retired(running: Running, base: Path, tmp_path: Path) -> None:
    directory = save_lora(base, tmp_path)
    adapter, error = running.adopt(X._replace(source=str(directory)))
    assert error is None
    assert len(adapter.version) == 40
    Reference(directory / "merged").check_greedy(prompt_of(20), running.ids(adapter.key))
    Reference(base).check_greedy(prompt_of(20), running.ids(PLAIN))
    assert running.adopt(adapter) == (adapter, None)
    _, error = running.adopt(adapter._replace(version="v0"))
    assert error
    assert "not those that were loaded before" in error.words
    running.thread.put(Retire(adapter.key))
    assert running.ids(adapter.key) == []


def test_failures_are_words(running: Running, base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, error = running.adopt(X._replace(source=str(tmp_path)))
    assert error
    assert "has no adapter_config.json" in error.words
    monkeypatch.setattr("tokenyard.workers.adoption.read_adapter", lambda *_: 1 // 0)
    _, error = running.adopt(X)
    assert error
    assert error.code == "worker_error"
    plain = Running(Bench.load(base))
    _, error = plain.adopt(X)
    assert error
    assert "--max-loras" in error.words
