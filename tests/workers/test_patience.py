"""How long a step may last before its engine is taken for hung."""

from pathlib import Path

import pytest
from engines import Bench, greedy, job_of, prompt_of, save_tiny

from tokenyard.workers.patience import MARGIN, SLOWEST_FLOPS, Patience


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder: Path = tmp_path_factory.mktemp("model")
    return Bench.load(save_tiny(folder / "qwen3", "qwen3"))


def test_tokens_get_time_by_the_models_size_then_by_what_they_took() -> None:
    patience = Patience(4_000_000_000, "cpu", 60)
    assert patience.of(1, None) == 60 + 8
    assert patience.of(100, 0.25) == 60 + 100 * MARGIN * 0.25
    assert Patience(4_000_000_000, "cuda", 60).of(512, None) < 65


def test_each_step_gets_time_for_what_it_computes(bench: Bench) -> None:
    engine = bench.engine(step_timeout_s=5.0)
    token_s = 2 * bench.loaded.model.num_parameters() / SLOWEST_FLOPS["cpu"]
    engine.add(job_of(1), prompt_of(200), [], greedy(4))
    engine.step()
    assert engine.patience_s == pytest.approx(5.0 + 200 * token_s)
    engine.step()
    assert engine.patience_s == pytest.approx(5.0 + token_s)
    for number in range(2, 6):
        engine.add(job_of(number), prompt_of(100, number), [], greedy(1))
        engine.step()
        engine.took(0.1)
    engine.add(job_of(7), prompt_of(100, 7), [], greedy(1))
    engine.step()
    assert engine.patience_s == pytest.approx(5.0 + 100 * MARGIN * 0.1 / 100, rel=0.1)


def test_texts_to_embed_get_time_too(bench: Bench) -> None:
    engine = bench.engine(max_batch_tokens=64, step_timeout_s=5.0)
    token_s = 2 * bench.loaded.model.num_parameters() / SLOWEST_FLOPS["cpu"]
    engine.embed(job_of(1), prompt_of(200))
    engine.step()
    assert engine.patience_s == pytest.approx(5.0 + 200 * token_s)
