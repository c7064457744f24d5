"""Promises are judged by figures of the same run only."""

from engine_steps import Decode, Profile
from figures import Level, Stall
from offline import Rates
from targets import engine_targets, serve_targets

NAMES = ("ours", "default", "batching")


def level(server: str, concurrency: int, tokens_per_s: float, ttft_ms: float = 10) -> Level:
    return Level(server, concurrency, 8, ttft_ms, 20, 1, 2, tokens_per_s, (1, 2), 1, 1, 0.1, 60, 64)


def test_serving_is_judged_against_the_peer_that_was_named() -> None:
    levels = [level("ours", 32, 600, 1000), level("default", 32, 40, 20_000), level("batching", 32, 250)]
    targets = serve_targets(levels, [Stall("ours", 4, 10, 41, 100), Stall("default", 1, 1, 1000, 1)], *NAMES)
    assert [(one.wanted, one.found, one.met) for one in targets] == [
        (15, 15, True),
        (2.5, 2.4, False),
        (20, 20, True),
        (4, 4.1, False),
    ]


def test_what_was_not_measured_is_not_judged() -> None:
    assert serve_targets([level("ours", 1, 80), level("ours", 8, 80), level("batching", 1, 1)], [], *NAMES) == []


def test_a_cpu_is_judged_by_its_step_beside_the_peers() -> None:
    rates = [Rates("ours", 1, (1, 1), 100), Rates("theirs", 1, (1, 1), 390)]
    [target] = engine_targets("qwen3-60m", "cpu", [], None, rates, [])
    assert (target.found, target.met) == (3.9, False)
    assert engine_targets("demo", "cpu", [], None, rates, []) == []
    assert engine_targets("qwen3-60m", "cpu", [], None, [rates[0], rates[1]._replace(gap_ms=None)], []) == []


def test_a_gpu_is_judged_by_share_rate_step_and_busy_time() -> None:
    decodes = [Decode(1, 128, 4.5, 222, 0.79, 0.1), Decode(4, 128, 4.9, 800, 0.8, 0.1)]
    profile = Profile(32, 128, 0.98, "")
    targets = engine_targets("qwen3-8b", "cuda", decodes, profile, [], [])
    assert [(one.wanted, one.is_floor, one.met) for one in targets] == [
        (80, True, False),
        (210, True, True),
        (5, False, True),
        (97, True, True),
    ]
    rates = [Rates("ours", 300, (1, 1), 100), Rates("theirs", 100, (1, 1), 390)]
    small = engine_targets("qwen3-0.6b", "cuda", decodes, None, [], rates)
    assert [(one.wanted, one.met) for one in small] == [(40, True), (1400, False), (3, True)]
