"""Whatever a job asks for within the wire's ranges, the engine's step raises nothing, and its neighbour goes on.

The front refuses most of this; a job from elsewhere must not end a worker, and each worker that is tried after it.
"""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from contract import LEAVES, values
from engines import VOCAB, Bench, greedy, job_of, prompt_of, save_tiny
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import GRAMMAR_KINDS, Grammar, Params, SequenceBias
from tokenyard.broker.ranges import AboveZero, Natural, NotNegative, TokenId

NEIGHBOUR, NUM_TOKENS = 99, 12
NUM_EXAMPLES = int(os.environ.get("TOKENYARD_EXAMPLES", "20"))
"""Two seconds; more are for scripts/fuzz.sh."""
COMPILED_S = 10.0
"""Bound on a made-up grammar: all are tiny."""
TOKEN_IDS = st.integers(0, VOCAB - 1)
RUNS = st.lists(TOKEN_IDS, min_size=1, max_size=3)
LEAVES_HERE = LEAVES | {
    TokenId: TOKEN_IDS,
    list[list[TokenId]]: st.lists(RUNS, max_size=3),
    SequenceBias: st.builds(SequenceBias, RUNS, st.floats(-1e300, 1e300)),
    Natural: st.sampled_from([0, 1, 2, 3, 8, 2**31, 2**63 - 1]),
    AboveZero: st.sampled_from([1.0, 0.5, 2.0, 5e-324, 1e308]),
    NotNegative: st.sampled_from([0.0, 1e-5, 0.7, 1.0, 1e308]),
    str: st.sampled_from([*GRAMMAR_KINDS, "{}", '["a"]', '{"type": "object"}', "a+", 'root ::= "a"']),
}
"""Half of what is drawn from the ranges alone is refused before it runs."""
PARAMS = st.builds(
    Params._replace,
    values(Params, LEAVES_HERE),
    max_tokens=st.sampled_from([1, 3, 8, 2**63 - 1]),
    grammar=st.none() | st.none() | st.none() | values(Grammar, LEAVES_HERE),
)
JOBS = st.tuples(
    st.sampled_from(["generate", "generate", "generate", "score", "embed"]),
    st.lists(TOKEN_IDS, min_size=1, max_size=20),
    st.lists(TOKEN_IDS, max_size=5),
    PARAMS,
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.load(save_tiny(Path(tmp_path_factory.mktemp("wild")), "qwen3"))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # biases beyond float32 are infinite
@settings(max_examples=NUM_EXAMPLES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.lists(JOBS, min_size=3, max_size=6))
def test_no_job_harms_the_engine_or_its_neighbour(bench: Bench, jobs: list[Any]) -> None:
    engine = bench.engine()
    engine.add(job_of(NEIGHBOUR), prompt_of(9), [], greedy(NUM_TOKENS))
    for number, (kind, prompt, emitted, params) in enumerate(jobs):
        try:
            if kind == "generate":
                engine.add(job_of(number), prompt, emitted, params)
            elif kind == "score":
                engine.score(job_of(number), prompt, params)
            else:
                engine.embed(job_of(number), prompt)
        except TokenyardError:
            continue  # refused, as the worker would tell the front
    given_up_s = time.monotonic() + COMPILED_S
    neighbour: list[int] = []
    while len(neighbour) < NUM_TOKENS or engine.load()["compiling"]:
        assert time.monotonic() < given_up_s
        for key, delta in engine.step():
            neighbour += delta.token_ids if key == job_of(NEIGHBOUR) else []
        engine.check()
    for number in range(len(jobs)):
        engine.abort(job_of(number))
    engine.check()
    assert engine.load()["free_blocks"] == engine.load()["num_blocks"]
