"""The engine's thread around an engine that only keeps a diary."""

import time
from typing import Any

from yard import wait_until

from tokenyard.workers.engine_thread import EngineThread

STEP_S = 0.02


class Diary:
    """Takes the place of an engine: steps of a known length, and what it was told of them."""

    def __init__(self) -> None:
        self.num_steps = 0
        self.told_s: list[float] = []

    @property
    def has_work(self) -> bool:
        return self.num_steps < 5

    def load(self) -> dict[str, int]:
        return {}

    def step(self, held: object) -> list[Any]:
        time.sleep(STEP_S)  # the length itself, nothing is awaited
        self.num_steps += 1
        return []

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
