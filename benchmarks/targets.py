"""What was promised, beside what was found. Pure arithmetic; only the shapes and devices of the promise are judged."""

from collections.abc import Sequence
from typing import NamedTuple

from engine_steps import Decode, Profile
from figures import Level, Stall
from offline import Rates

SERVE_MODEL = "qwen3-60m"
"""The serving targets are for this model on a CPU, with prompts of SERVE_PROMPT and outputs of 64 tokens."""
SERVE_PROMPT_TOKENS = 60


class Target(NamedTuple):
    """One promise and what became of it."""

    what: str
    is_floor: bool
    """The figure must be at least what is wanted; else at most."""
    wanted: float
    found: float
    unit: str
    met: bool


def at_least(what: str, wanted: float, found: float, unit: str) -> Target:
    return Target(what, True, wanted, found, unit, found >= wanted)


def at_most(what: str, wanted: float, found: float, unit: str) -> Target:
    return Target(what, False, wanted, found, unit, found <= wanted)


def serve_targets(
    levels: Sequence[Level], stalls: Sequence[Stall], ours: str, default: str, batching: str
) -> list[Target]:
    """Those whose figures were all measured; the arguments at the end are the servers' names."""
    by_key = {(level.server, level.concurrency): level for level in levels}
    targets: list[Target] = []

    def rate(concurrency: int, theirs: str, wanted: float) -> None:
        mine, other = by_key.get((ours, concurrency)), by_key.get((theirs, concurrency))
        if mine and other:
            what = f"{concurrency} streams: tokens/s over {theirs}"
            targets.append(at_least(what, wanted, mine.tokens_per_s / other.tokens_per_s, "×"))

    rate(1, default, 2)
    rate(8, batching, 2)
    rate(32, default, 15)
    rate(32, batching, 2.5)
    mine, other = by_key.get((ours, 32)), by_key.get((default, 32))
    if mine and other:
        what = f"32 streams: TTFT p50 of {default} over ours"
        targets.append(at_least(what, 20, other.ttft_p50_ms / mine.ttft_p50_ms, "×"))
    for stall in stalls:
        if stall.server == ours:
            what = "long prompt: worst gap of a running stream, in median gaps"
            targets.append(at_most(what, 4, stall.worst_itl_ms / stall.itl_p50_ms, ""))
    return targets


def engine_targets(
    model: str,
    device: str,
    decodes: Sequence[Decode],
    profile: Profile | None,
    same_length: Sequence[Rates],
    uneven: Sequence[Rates],
) -> list[Target]:
    """Those of this model on this device whose figures were measured. Rates: ours first."""
    if device == "cpu":
        return _step_targets(same_length) if model == SERVE_MODEL else []
    targets: list[Target] = []
    share, rate = {"qwen3-8b": (80, 210), "qwen3-0.6b": (40, 1400)}.get(model, (None, None))
    alone = next((cell for cell in decodes if cell.batch == 1), None)
    if share and rate and alone:
        where = f"batch 1, context {alone.context:,}"
        targets.append(at_least(f"{where}: share of the bandwidth", share, alone.bandwidth_share * 100, " %"))
        targets.append(at_least(f"{where}: decode", rate, alone.tokens_per_s, " tokens/s"))
    four = next((cell for cell in decodes if cell.batch == 4), None)
    if model == "qwen3-8b" and four:
        targets.append(at_most(f"batch 4, context {four.context:,}: step", 5, four.step_ms, " ms"))
    if model == "qwen3-0.6b" and len(uneven) == 2:
        ratio = uneven[0].tokens_per_s / uneven[1].tokens_per_s
        targets.append(at_least("uneven requests: tokens/s over transformers' batching", 3, ratio, "×"))
    if profile and profile.busy_share is not None:
        targets.append(at_least(f"batch {profile.batch}: GPU busy", 97, profile.busy_share * 100, " %"))
    return targets


def _step_targets(same_length: Sequence[Rates]) -> list[Target]:
    gaps = [rates.gap_ms for rates in same_length]
    if len(gaps) != 2 or not gaps[0] or not gaps[1]:
        return []
    what = "16 contexts of 1,024: transformers' batching's step over ours"
    return [at_least(what, 4, gaps[1] / gaps[0], "×")]
