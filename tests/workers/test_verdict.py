"""The lane decision: remembered for the same model on the same code, tested again whenever in doubt."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from engines import CONTEXT, save_tiny
from transformers import AutoConfig, AutoModelForCausalLM

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import ModelSpec
from tokenyard.workers import verdict as verdicts
from tokenyard.workers.attention import NAME
from tokenyard.workers.model import EngineOptions, LoadedModel, load_model
from tokenyard.workers.plain import Prefill


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKENYARD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(directory: Path, dtype: str = "float32", **options: Any) -> LoadedModel:
    return load_model(ModelSpec(str(directory)), "cpu", dtype, EngineOptions(**options))


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_a_verdict_is_remembered(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = save_tiny(tmp_path / family, family)
    first = load(directory)

    def untested(*_: object) -> None:
        raise AssertionError("it was tested before")

    monkeypatch.setattr(verdicts, "_test", untested)
    again = load(directory)
    assert again.verdict == first.verdict
    assert (again.model.config._attn_implementation == NAME) == (family == "llama")
    with pytest.raises(AssertionError):
        load(directory, dtype="bfloat16")
    with pytest.raises(AssertionError):
        load(directory, max_model_len=100)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        json.dumps({"lane": "fast", "shapes": [], "way": ["chunks", False, True], "footprint": [0, 0]}).encode(),
        json.dumps({"lane": "paged", "shapes": [], "way": ["chunks", False, True], "footprint": [0, 0]}).encode(),
        json.dumps({"lane": "paged", "shapes": [[2, 8]], "way": ["chunks", False, True], "footprint": [0, 0]}).encode(),
        json.dumps({"lane": "plain", "shapes": [], "way": ["chunks", False, True], "footprint": [-1, 0]}).encode(),
    ],
)
def test_a_corrupt_memory_is_harmless(content: bytes, cache: Path, tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "llama", "llama")
    right = load(directory).verdict
    paths = list(cache.rglob("*.json"))
    assert len(paths) == 2, "the verdict, and which changes were tried"
    for path in paths:
        path.write_bytes(content)
    assert load(directory).verdict == right
    assert all(path.read_bytes() != content for path in paths)


def test_a_cache_that_cannot_be_written_is_harmless(cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file where a folder should be")
    assert load(save_tiny(tmp_path / "llama", "llama")).card.lane == "paged"


def test_the_lane_is_said_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tokenyard"):
        load(save_tiny(tmp_path / "mamba", "mamba"))
    assert "layers of type linear_attention are not for paged attention" in caplog.text
    assert "MambaForCausalLM is served on the plain lane" in caplog.text


def test_llama4_is_paged_where_one_chunk_is_all(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "llama4", "llama4_text", num_local_experts=2, attention_chunk_size=128)
    assert load(directory, max_model_len=127).card.lane == "paged"
    assert load(directory).card.lane == "plain"
    assert CONTEXT > 128


def test_longrope_is_paged_where_it_never_turns(tmp_path: Path) -> None:
    """Beyond its original length, which the self-test does not reach, even two chunks of a prompt are turned apart."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 128}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    directory = save_tiny(tmp_path / "phi3", "phi3", rope_parameters=rope, original_max_position_embeddings=128)
    assert load(directory, max_model_len=128).card.lane == "paged"
    assert load(directory).verdict.way.prefill == Prefill.WHOLE


@pytest.mark.filterwarnings("ignore")
def test_what_sees_later_tokens_is_refused_with_words(tmp_path: Path) -> None:
    """An encoder with a head for masked words: no lane could give it the same logits token by token."""
    shape = {"vocab_size": 211, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("bert", **shape, intermediate_size=64, initializer_range=0.3, is_decoder=False)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(SetupError, match=r"cannot run token by token: .* cannot be served"):
        load(tmp_path / "bert")
