"""Tuned models: the streams of the plain one, and back to the plain one where a change is wrong."""

import logging
import os
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest
import torch
from engines import FAMILIES, Bench, greedy, job_of, prompt_of, run, run_one, save_tiny
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from tokenyard.broker.spec import ModelSpec
from tokenyard.workers import late, tuning
from tokenyard.workers.compiled import CompiledLayer
from tokenyard.workers.cpu_linear import CpuLinear
from tokenyard.workers.fusion import MergedAttention, MergedMLP
from tokenyard.workers.leisure import Demand
from tokenyard.workers.model import EngineOptions, load_model

COUNT = 24


def modules(bench: Bench, kind: type) -> list[torch.nn.Module]:
    return [one for one in bench.loaded.model.modules() if isinstance(one, kind)]


def check_streams(bench: Bench) -> None:
    """One stream alone, then several of which one comes in chunks."""
    prompt = prompt_of(20)
    bench.reference.check_greedy(prompt, run_one(bench.engine(), prompt, greedy(COUNT)).ids)
    engine = bench.engine(max_num_seqs=8, max_batch_tokens=24)
    prompts = {number: prompt_of(length) for number, length in enumerate((1, 60, 7, 33))}
    for number, prompt in prompts.items():
        engine.add(job_of(number), prompt, [], greedy(COUNT))
    streams = run(engine)
    for number, prompt in prompts.items():
        bench.reference.check_greedy(prompt, streams[job_of(number)].ids)


def save_narrow(directory: Path, family: str) -> Path:
    """A tiny model in bfloat16, as most checkpoints are."""
    save_tiny(directory, family)
    AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).save_pretrained(directory)
    return directory


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "LARGE_BYTES", 0)


def test_eager_is_the_model_as_it_is(tmp_path: Path) -> None:
    bench = Bench.load(save_tiny(tmp_path, "qwen3"), eager=True)
    assert not modules(bench, MergedAttention) + modules(bench, MergedMLP) + modules(bench, CpuLinear)
    check_streams(bench)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("everything_is_large")
def test_merged_and_laid_out(family: str, tmp_path: Path) -> None:
    bench = Bench.load(save_tiny(tmp_path, family))
    assert len(modules(bench, MergedAttention)) == len(modules(bench, MergedMLP)) == 2
    assert len(modules(bench, CpuLinear)) == 2 * 4 + 1
    check_streams(bench)


@pytest.mark.skipif(not tuning.multiplies_bfloat16(), reason="elsewhere bfloat16 is left as it is, as tested below")
@pytest.mark.usefixtures("everything_is_large")
def test_bfloat16_is_laid_out(tmp_path: Path) -> None:
    assert num_laid_out(save_narrow(tmp_path, "qwen3")) == 2 * 4 + 1


@pytest.mark.usefixtures("everything_is_large")
def test_bfloat16_is_left_where_it_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "multiplies_bfloat16", lambda: False)
    assert num_laid_out(save_narrow(tmp_path, "qwen3")) == 0


def num_laid_out(directory: Path) -> int:
    loaded = load_model(ModelSpec(str(directory)), "cpu", "bfloat16", EngineOptions())
    return sum(isinstance(one, CpuLinear) for one in loaded.model.modules())


def test_a_wrong_change_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TOKENYARD_CACHE_DIR", str(tmp_path / "cache"))
    right = MergedMLP.forward
    monkeypatch.setattr(MergedMLP, "forward", lambda self, hidden: 1.1 * right(self, hidden))
    with caplog.at_level(logging.WARNING):
        bench = Bench.load(save_tiny(tmp_path, "llama"))
    assert "not merged q/k/v and gate/up: other logits" in caplog.text
    assert not modules(bench, MergedAttention) + modules(bench, MergedMLP)
    check_streams(bench)


def test_a_change_that_raises_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TOKENYARD_CACHE_DIR", str(tmp_path / "cache"))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(MergedAttention, "forward", fail)
    with caplog.at_level(logging.WARNING):
        bench = Bench.load(save_tiny(tmp_path, "llama"))
    assert "not merged q/k/v and gate/up: out of memory" in caplog.messages
    check_streams(bench)


@pytest.mark.usefixtures("everything_is_large")
def test_what_was_tried_once_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody waits for the first token of a model on demand. Other weights are another model."""
    monkeypatch.setenv("TOKENYARD_CACHE_DIR", str(tmp_path / "cache"))
    trials: list[object] = []
    try_it = tuning.paged_logits
    monkeypatch.setattr(tuning, "paged_logits", lambda *given: trials.append(given) or try_it(*given))

    def num_trials(directory: Path) -> int:
        before = len(trials)
        bench = Bench.load(directory)
        assert len(modules(bench, MergedMLP)) == 2
        assert modules(bench, CpuLinear)
        check_streams(bench)
        return len(trials) - before

    first, second = (save_tiny(tmp_path / name, "qwen3", rms_norm_eps=eps) for name, eps in (("1", 1e-6), ("2", 1e-5)))
    assert [num_trials(one) for one in (first, first, second, second)] == [3, 0, 3, 0]


def test_without_a_compiler_it_is_said_and_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    with caplog.at_level(logging.WARNING):
        bench = Bench.load(save_tiny(tmp_path, "llama"), compile=True)
    assert "no C++ compiler is found" in caplog.text
    check_streams(bench)


@pytest.mark.skipif(tuning.find_compiler() is None, reason="nothing is compiled without one, as tested above")
@pytest.mark.parametrize(
    ("wanted", "large_from", "compiles"),
    [(None, 0, True), (None, 1 << 40, False), (False, 0, False), (True, 1 << 40, True)],
)
def test_size_decides_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool | None, large_from: int, compiles: bool
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(tuning, "COMPILE_BYTES", large_from)
    monkeypatch.setattr(tuning, "_compile", compiled.append)
    Bench.load(save_tiny(tmp_path, "llama"), compile=wanted)
    assert bool(compiled) == compiles


LOAD = """
import sys
import torch
from tokenyard.broker.spec import ModelSpec
from tokenyard.workers.model import EngineOptions, load_model
from tokenyard.workers.compiled import CompiledLayer
torch.set_num_threads(1)
loaded = load_model(ModelSpec(sys.argv[1]), "cpu", "float32", EngineOptions(compile=True))
assert any(isinstance(one, CompiledLayer) for one in loaded.model.modules())
found = torch._dynamo.utils.counters["inductor"]
print(found["fxgraph_cache_hit"], found["fxgraph_cache_miss"])
"""
"""Compiles a model as a worker does, in a process of its own."""


@pytest.mark.slow  # about half a minute of compiling on two busy cores
@pytest.mark.timeout(600)
@pytest.mark.skipif(tuning.find_compiler() is None, reason="nothing is compiled without one, as tested above")
def test_the_next_process_finds_what_was_compiled(tmp_path: Path) -> None:
    model = save_narrow(tmp_path / "model", "qwen3")
    environment = {**os.environ, "TOKENYARD_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)  # set by whoever compiled in this process

    def load() -> tuple[int, int, set[Path]]:
        command = [sys.executable, "-W", "ignore", "-c", LOAD, str(model)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        hits, misses = map(int, done.stdout.split())
        return hits, misses, set((tmp_path / "cache" / "compiled" / "threads-1").rglob("*.so"))

    hits, misses, built = load()
    assert misses > 0
    assert built
    assert load() == (hits + misses, 0, built)


@pytest.mark.slow  # about a minute of compiling on two busy cores
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler, about torch's own code
@pytest.mark.skipif(tuning.find_compiler() is None, reason="the other way is tested above")
@pytest.mark.usefixtures("everything_is_large")
def test_compiled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch._dynamo.reset()
    with caplog.at_level(logging.INFO):
        bench = Bench.load(save_narrow(tmp_path, "mistral"), compile=True)
    assert any(line.startswith("compiled in") for line in caplog.messages), caplog.text
    assert all(one.is_narrow for one in modules(bench, CpuLinear))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    check_streams(bench)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "a request waited for the compiler"
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run_one(bench.engine(), prompt_of(5), greedy(4))
    regions = [one.count for one in found.key_averages() if one.key.startswith("Torch-Compiled Region")]
    assert sum(regions) >= 4 * 2, "4 forwards of 2 layers should have run compiled"


@pytest.mark.slow  # half a minute of compiling on two busy cores; less after the test above
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler, about torch's own code
@pytest.mark.skipif(tuning.find_compiler() is None, reason="the other way is tested above")
@pytest.mark.usefixtures("everything_is_large")
def test_compiled_beside_an_engine_that_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(late, "HEAD_START_S", 0.0)
    bench = Bench.load(save_narrow(tmp_path, "qwen3"), compile=True, late=True)
    compiler = bench.loaded.late
    assert compiler is not None
    compiler.start()
    num_streams = 0
    while compiler.due_s(Demand.STREAMS) == inf:
        bench.reference.check_greedy(prompt_of(20), run_one(bench.engine(), prompt_of(20), greedy(COUNT)).ids)
        num_streams += 1
    assert num_streams > 1
    assert not modules(bench, CompiledLayer), "nothing changes in the middle of a step"
    assert not compiler.go_on()
    assert len(modules(bench, CompiledLayer)) == 2
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    check_streams(bench)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "a request waited for the compiler"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_late_compile_that_goes_wrong_leaves_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(model: torch.nn.Module) -> None:
        setattr(model, "lm_head", torch.nn.Identity())  # noqa: B010 - as compile_model does
        raise LookupError("its layers are not found")

    monkeypatch.setattr(late, "HEAD_START_S", 0.0)
    monkeypatch.setattr(tuning, "_is_compiling", lambda *_: True)
    monkeypatch.setattr(tuning, "_compile", spoil)
    bench = Bench.load(save_tiny(tmp_path, "qwen3"), late=True)
    compiler = bench.loaded.late
    assert compiler is not None
    compiler.start()
    compiler.join()
    compiler.go_on()
    assert "not compiled: its layers are not found" in caplog.text
    check_streams(bench)
