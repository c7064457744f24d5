"""Many streams through one front, from workers that say known tokens quickly: each gets every token once, in order.

How quickly is for benchmarks/relay_bench.py to say; tests/benchmarks/test_relay_bench.py has its other scenes, small.
"""

import pytest
from relay_scenes import Scene, play

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "scene",
    [
        Scene(num_streams=100, num_tokens=100, rate=100, num_workers=2, kill_after_s=0.5),
        # Faster than a front can write each token alone, on most machines.
        Scene(num_streams=1000, num_tokens=200, rate=100),
    ],
    ids=["a hundred, one worker killed", "a thousand"],
)
def test_streams_lose_nothing(scene: Scene) -> None:
    tally = play(scene).tally
    assert tally.faults == []
    assert tally.num_right == scene.num_streams
