"""The engine's thread around an engine that only keeps a diary."""

import threading
import time
from typing import Any

from yard import wait_until

from tokenyard.broker.config import BEAT_S
from tokenyard.workers.engine_thread import EngineThread

STEP_S = 0.02


class Diary:
    """Takes the place of an engine: steps of a known length, and what it was told of them."""

    late = None

    def __init__(self) -> None:
        self.num_steps = 0
        self.told_s: list[float] = []

    @property
    def has_work(self) -> bool:
        return self.num_steps < 5

    def load(self) -> dict[str, int]:
        return {"steps": self.num_steps}

    def step(self, held: object) -> list[Any]:
        time.sleep(STEP_S)  # the length itself, nothing is awaited
        self.num_steps += 1
        return []

    def enter_thread(self) -> None:
        self.thread = threading.get_ident()

    def took(self, seconds: float) -> None:
        self.told_s.append(seconds)


def test_every_step_is_timed() -> None:
    diary = Diary()
    loaded: Any = (diary, None)
    thread = EngineThread(lambda _: loaded)
    thread.start()
    wait_until(lambda: len(diary.told_s) >= 5, "five steps")
    assert thread.failure is None
    assert all(STEP_S <= one < 1 for one in diary.told_s)


class Sleeper(Diary):
    """Hangs in its first step until it is let go."""

    patience_s = 7.0

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def step(self, held: object) -> list[Any]:
        self.let_go.wait()
        return super().step(held)


def test_only_a_step_that_lasts_is_told() -> None:
    sleeper = Sleeper()
    loaded: Any = (sleeper, None)
    thread = EngineThread(lambda _: loaded)
    assert thread.step_s(time.monotonic()) == 0, "a model that loads is in no step"
    thread.start()
    wait_until(lambda: thread.step_s(time.monotonic()) > 0, "the step to last", BEAT_S + 5)
    assert thread.step_s(time.monotonic()) == Sleeper.patience_s
    assert thread.num_steps == 0
    assert thread.load_figures == {"steps": 0}, "what a fresh engine has taken is known before its first step is done"
    sleeper.let_go.set()
    wait_until(lambda: len(sleeper.told_s) >= 5, "five steps")
    assert thread.step_s(time.monotonic() + 100) == 0, "it waits for work"
