"""Quantized weights: how far logits move, that the engine serves them as they are, and what is refused with words."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import greedy, job_of, run, run_one
from loras import save_lora, with_lora
from models import DEMO, demo_tokenizer
from reference import Reference
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedConfig, TorchAoConfig

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import OFF, OPTIONS, ModelSpec
from tokenyard.broker.wire import AdapterKey
from tokenyard.workers import quantization
from tokenyard.workers.adapter_files import read_adapter
from tokenyard.workers.engine import Engine
from tokenyard.workers.model import EngineOptions, LoadedModel, load_model
from tokenyard.workers.quantization import quantize
from tokenyard.workers.rack import Adapted

with_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="pip install tokenyard[quantization]")
with_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="pip install bitsandbytes accelerate")
EXTRA = "TOKENYARD_QUANTIZATION"
"""Names the folder into which .ci/run installs what this file needs: beside the rest of the tests it would make every
load of a model a second slower."""
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TEXT = "What is the capital of France? The capital of France is Paris. Count from one to twenty: one two three four. "
FP8_BLOCK = 32
PROMPT = list(demo_tokenizer().backend.encode(TEXT * 4).ids)


def load(name: str, source: str = DEMO) -> LoadedModel:
    return load_model(ModelSpec(source), "cpu", "float32", EngineOptions(quantization=name))


@torch.inference_mode()
def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    """float32 [T, V], by transformers' own attention."""
    served_by = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    model.set_attn_implementation(served_by)
    return logits


@pytest.fixture(scope="module")
def exact() -> torch.Tensor:
    return logits_of(AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32), PROMPT)


def check_engine(loaded: LoadedModel) -> None:
    """A greedy stream is what the same weights say without the engine, near-ties aside."""
    ids = run_one(Engine(loaded, EngineOptions()), PROMPT[:40], greedy(24)).ids
    rows = logits_of(loaded.model, PROMPT[:40] + ids)[39:-1]
    assert (rows.amax(-1) - rows[range(len(ids)), ids]).max() < 1e-3


@with_torchao
@pytest.mark.parametrize(("name", "most_error", "least_agreement"), [("int8", 0.03, 0.95), ("int4", 0.25, 0.8)])
def test_quality(exact: torch.Tensor, name: str, most_error: float, least_agreement: float) -> None:
    """Measured: int8 0.014 and 98 %, int4 0.16 and 90 % of the model's 4.8 million weights in rows of 192."""
    loaded = load(name)
    assert (loaded.card.dtype, loaded.card.lane) == (f"float32+{name}", "paged")
    found = logits_of(loaded.model, PROMPT)
    error = (found - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 1e-4 < error < most_error, "as large as it should be, and not none, as if nothing had been quantized"
    assert (found.argmax(-1) == exact.argmax(-1)).float().mean() > least_agreement
    check_engine(loaded)


@with_bitsandbytes
@pytest.mark.parametrize(("name", "most_error", "least_agreement"), [("bnb-8bit", 0.04, 0.95), ("bnb-4bit", 0.3, 0.8)])
def test_quality_of_bitsandbytes(exact: torch.Tensor, name: str, most_error: float, least_agreement: float) -> None:
    """Measured: 8 bits 0.017 and 99 %, 4 bits 0.18 and 87 %. 8-bit rounds by what else is in a batch."""
    loaded = load(name)
    assert (loaded.card.dtype, loaded.card.lane) == (f"float32+{name}", "paged")
    found = logits_of(loaded.model, PROMPT)
    error = (found - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 1e-4 < error < most_error
    assert (found.argmax(-1) == exact.argmax(-1)).float().mean() > least_agreement
    stream = run_one(Engine(loaded, EngineOptions()), PROMPT[:40], greedy(24))
    assert len(stream.ids) == 24


@with_torchao
def test_a_checkpoint_that_is_quantized_already(tmp_path: Path, exact: torch.Tensor) -> None:
    from torchao.quantization import Int8WeightOnlyConfig

    config = TorchAoConfig(Int8WeightOnlyConfig())
    AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32, quantization_config=config).save_pretrained(
        tmp_path
    )
    demo_tokenizer().chat.save_pretrained(tmp_path)
    loaded = load("", str(tmp_path))
    error = (logits_of(loaded.model, PROMPT) - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 1e-4 < error < 0.03
    check_engine(loaded)
    with pytest.raises(SetupError, match="quantized already"):
        load("int8", str(tmp_path))


@with_bitsandbytes
@pytest.mark.parametrize(("bits", "most_error"), [(8, 0.04), (4, 0.4)])
def test_a_checkpoint_of_bitsandbytes(tmp_path: Path, exact: torch.Tensor, bits: int, most_error: float) -> None:
    config = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32, quantization_config=config).save_pretrained(
        tmp_path
    )
    loaded = load("", str(tmp_path))
    error = (logits_of(loaded.model, PROMPT) - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 1e-4 < error < most_error
    assert len(run_one(Engine(loaded, EngineOptions()), PROMPT[:40], greedy(8)).ids) == 8


def test_a_checkpoint_in_blocks_of_fp8_is_widened_on_a_cpu(tmp_path: Path) -> None:
    """As Qwen and DeepSeek publish them. It is then a model like any other."""
    shutil.copytree(DEMO, tmp_path, dirs_exist_ok=True)
    weights = {}
    for name, weight in load_file(tmp_path / "model.safetensors").items():
        weights[name] = weight
        if name.endswith("_proj.weight"):
            rows, columns = (size // FP8_BLOCK for size in weight.shape)
            blocks = weight.float().reshape(rows, FP8_BLOCK, columns, FP8_BLOCK)
            scales = blocks.abs().amax(dim=(1, 3)) / torch.finfo(torch.float8_e4m3fn).max
            weights[name] = (blocks / scales[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
            weights[f"{name}_scale_inv"] = scales
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_bytes())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load("", str(tmp_path))
    assert {one.dtype for one in loaded.model.parameters()} == {torch.float32}
    stream = run_one(Engine(loaded, EngineOptions()), PROMPT[:40], greedy(24))
    Reference(tmp_path).check_greedy(PROMPT[:40], stream.ids)


def check_adapter(loaded: LoadedModel, reference: Any, lora: Path, margin: float = 1e-3) -> None:
    """A stream with an adapter is the one of `reference`, beside one without; logits may differ by so much."""
    engine = Engine(loaded, EngineOptions())
    assert loaded.rack is not None
    files = read_adapter(str(lora), loaded.rack.sizes, loaded.rack.rank, loaded.rack.dtype)
    key = AdapterKey("lora", files.version)
    engine.adapters.hold(key, files.products)
    engine.add(job_of(0), PROMPT[:40], [], greedy(24), key)
    engine.add(job_of(1), PROMPT[:40], [], greedy(24))
    streams = run(engine)
    assert streams[job_of(0)].ids != streams[job_of(1)].ids
    ids = streams[job_of(0)].ids
    with torch.inference_mode():
        rows = reference(input_ids=torch.tensor([PROMPT[:40] + ids]), use_cache=False).logits[0][39:-1]
    assert (rows.amax(-1) - rows[range(len(ids)), ids]).max() < margin


@with_torchao
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_adapters_over_quantized_weights(name: str, tmp_path: Path) -> None:
    """As if peft had merged them with what the weights are once they are quantized."""
    lora = save_lora(Path(DEMO), tmp_path / "lora", merged=False)
    loaded = load_model(ModelSpec(DEMO), "cpu", "float32", EngineOptions(quantization=name, max_loras=1))
    reference: Any = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    num_quantized = 0
    for place, layer in loaded.model.named_modules():
        if isinstance(layer, Adapted):
            reference.get_submodule(place).weight.data = layer.own.weight.dequantize()  # type: ignore[operator,union-attr]
            num_quantized += 1
    assert num_quantized
    check_adapter(loaded, with_lora(reference, lora), lora)


@with_bitsandbytes
@pytest.mark.parametrize("name", ["bnb-8bit", "bnb-4bit"])
def test_adapters_over_weights_of_bitsandbytes(name: str, tmp_path: Path) -> None:
    lora = save_lora(Path(DEMO), tmp_path / "lora", merged=False)
    options = EngineOptions(quantization=name, max_loras=1)
    loaded = load_model(ModelSpec(DEMO), "cpu", "float32", options)
    config = quantize(name, CPU, torch.float32, PreTrainedConfig())["quantization_config"]
    base = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32, quantization_config=config)
    # 8-bit rounds by what else is in a batch
    check_adapter(loaded, with_lora(base, lora), lora, 0.5 if name == "bnb-8bit" else 1e-3)


def test_an_unknown_way_is_refused() -> None:
    assert OPTIONS["quantization"].words == f"choose one of {OFF}, {', '.join(quantization.WAYS)}"
    with pytest.raises(SetupError, match="choose one of int8, int4, fp8, bnb-8bit, bnb-4bit"):
        quantize("int3", CPU, torch.float32, PreTrainedConfig())


@with_torchao
def test_fp8_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda package: package)
    with pytest.raises(SetupError, match=r"compute capability 9\.0"):
        quantize("fp8", CPU, torch.bfloat16, PreTrainedConfig())


@with_torchao
@pytest.mark.parametrize(
    ("name", "capability", "dtype", "words"),
    [
        ("fp8", (8, 9), torch.bfloat16, "capability 9.0 or newer; this one has 8.9"),
        ("fp8", (9, 0), torch.float16, "--dtype bfloat16"),
        ("int4", (7, 5), torch.bfloat16, "capability 8.0 or newer; this one has 7.5"),
        ("int4", (9, 0), torch.float32, "--dtype bfloat16"),
    ],
)
def test_a_gpu_must_fit(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], dtype: torch.dtype, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(quantization, "find_spec", lambda package: package)
    with pytest.raises(SetupError, match=words):
        quantize(name, CUDA, dtype, PreTrainedConfig())


@with_torchao
@pytest.mark.parametrize("name", ["int8", "int4", "fp8", "bnb-8bit", "bnb-4bit"])
def test_a_gpu_that_fits_gets_its_weights_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(quantization, "find_spec", lambda package: package)
    told = quantize(name, CUDA, torch.bfloat16, PreTrainedConfig())
    assert told["device_map"] == {"": CUDA}
    assert told["quantization_config"].quant_method.value in ("torchao", "bitsandbytes")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda package: None)
    with pytest.raises(SetupError, match=r"pip install torchao$"):
        quantize("int8", CPU, torch.float32, PreTrainedConfig())
    with pytest.raises(SetupError, match=r"pip install bitsandbytes accelerate$"):
        quantize("bnb-4bit", CUDA, torch.float32, PreTrainedConfig())


@pytest.mark.slow
@pytest.mark.skipif(EXTRA not in os.environ, reason=f"{EXTRA} names no folder with torchao and bitsandbytes")
def test_everything_here_with_the_extra_installed() -> None:
    """In a process of its own, none of it left out."""
    if not Path(os.environ[EXTRA]).is_dir():
        pytest.skip(f"{os.environ[EXTRA]} is not there")
    environment = {**os.environ, "PYTHONPATH": os.environ[EXTRA]}
    del environment[EXTRA]
    command = [sys.executable, "-m", "pytest", __file__, "-p", "no:cacheprovider", "-k", f"not {ITSELF}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "skipped" not in done.stdout.splitlines()[-1]


ITSELF = test_everything_here_with_the_extra_installed.__name__
