"""A process of its own: many requests of given lengths at once, through our engine or transformers' batching, no HTTP.

Reads an Errand as JSON on stdin, writes an Outcome as JSON on the last line of stdout. Both warm up first; the clock
starts when the first request is handed over, with all others right behind it.
"""

import json
import logging
import sys
import time
from typing import Any, NamedTuple

from engine_rig import Place, Rig, random_ids

OURS, BATCHING = "ours", "transformers-cb"
WARM_UP_SEED, SEED = 10_000_000, 20_000_000
"""Far apart, so that no prompt comes twice."""
NUM_WARM_UP_TOKENS = 8
STEP_TOKENS = 2048
"""Tokens in one step of ours: more than servers allow, as no stream waits here; transformers chooses its own."""
MOST_AT_ONCE = 256
"""Sequences of ours that run at once, as many as the targets speak of; transformers' own bound is 1,024."""


class Ask(NamedTuple):
    """One request."""

    num_prompt: int
    num_new: int


class Errand(NamedTuple):
    who: str
    place: Place
    asks: list[Ask]
    peer_memory: float
    """Share of free memory that transformers' KV cache may take."""


def warm_up(asks: list[Ask]) -> list[Ask]:
    """As many requests at once, but short, and one with the longest prompt: all that is made at first use is made."""
    short = [Ask(min(ask.num_prompt, NUM_WARM_UP_TOKENS), NUM_WARM_UP_TOKENS) for ask in asks]
    return [*short, Ask(max(ask.num_prompt for ask in asks), NUM_WARM_UP_TOKENS)]


class Outcome(NamedTuple):
    times_s: list[list[float]]
    """When each request had each of its tokens, from the start, in the order of the asks."""


def ours(errand: Errand) -> Outcome:
    room = {"max_num_seqs": min(len(errand.asks), MOST_AT_ONCE), "max_num_batched_tokens": STEP_TOKENS}
    rig = Rig(errand.place._replace(options={**room, **errand.place.options}))
    for index, ask in enumerate(warm_up(errand.asks)):
        rig.add(WARM_UP_SEED + index, *ask)
    rig.drain()
    start_s = time.perf_counter()
    keys = [rig.add(SEED + index, *ask) for index, ask in enumerate(errand.asks)]
    times_s: dict[Any, list[float]] = {key: [] for key in keys}
    while rig.engine.has_work:
        now_s, got = rig.step()
        for key in got:
            times_s[key].append(now_s - start_s)
    return Outcome([times_s[key] for key in keys])


def transformers_batching(errand: Errand) -> Outcome:
    """What `generate_batch` does, with a length for each request, which it cannot take."""
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
    from transformers.generation.continuous_batching.utils import WorkloadHints

    place = errand.place
    torch.set_num_threads(place.threads)
    dtype = getattr(torch, place.dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(place.model, dtype=dtype, attn_implementation="sdpa")
    model.to(place.device).eval()
    longest = max(ask.num_new for ask in errand.asks)
    never: Any = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=longest)  # type: ignore[no-untyped-call]
    config = ContinuousBatchingConfig(max_memory_percent=errand.peer_memory)
    hints = WorkloadHints(
        max_prompt_length=max(ask.num_prompt for ask in errand.asks),
        max_generated_length=longest,
        num_requests=len(errand.asks),
    )
    with model.continuous_batching_context_manager(
        generation_config=never, continuous_batching_config=config, workload_hints=hints, timeout=5
    ) as manager:

        def run(seed: int, asks: list[Ask]) -> tuple[float, dict[str, list[float]]]:
            start_s = time.perf_counter()
            for index, ask in enumerate(asks):
                prompt = random_ids(seed + index, ask.num_prompt, model.config.vocab_size)
                manager.add_request(prompt, f"{seed}-{index}", ask.num_new, record_timestamps=True, eos_token_id=-1)
            done: dict[str, list[float]] = {}
            while len(done) < len(asks):
                result = manager.get_result(timeout=1)
                if result is None and not manager.is_running():
                    raise RuntimeError("transformers' generation thread ended")
                if result is not None and result.is_finished():
                    if result.error is not None:
                        raise RuntimeError(f"transformers ended a request with an error: {result.error}")
                    done[result.request_id] = result.timestamps
            return start_s, done

        run(WARM_UP_SEED, warm_up(errand.asks))
        start_s, done = run(SEED, errand.asks)
    rows = [done[f"{SEED}-{index}"] for index in range(len(errand.asks))]
    return Outcome([[at_s - start_s for at_s in row] for row in rows])


def main() -> None:
    who, place, asks, peer_memory = json.load(sys.stdin)
    errand = Errand(who, Place(*place), [Ask(*ask) for ask in asks], peer_memory)
    logging.disable(logging.INFO)
    outcome = ours(errand) if who == OURS else transformers_batching(errand)
    sys.stdout.write(f"\n{json.dumps(outcome)}\n")


if __name__ == "__main__":
    main()
