"""Loading: what a card says, which models are served, and words for what cannot be."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engines import CONTEXT, VOCAB, save_tiny

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import DEMO_DIR, OPTIONS, ModelSpec
from tokenyard.workers import attention
from tokenyard.workers.model import DTYPES, EngineOptions, LoadedModel, load_model

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama", "llama", eos_token_id=[5, 9])


def load(source: object, dtype: str = "auto", spec: ModelSpec | None = None, **options: object) -> LoadedModel:
    return load_model(spec or ModelSpec(str(source)), "cpu", dtype, EngineOptions(**options))  # type: ignore[arg-type]


def test_card_of_a_directory(directory: Path) -> None:
    defaults = {"eos_token_id": 5, "top_k": 7, "do_sample": True, "suppress_tokens": [3], "sequence_bias": [[[1], 2.0]]}
    watermark = {"watermarking_config": {"bias": 2.5, "hashing_key": 7}}
    (directory / "generation_config.json").write_text(json.dumps(defaults | watermark))
    card = load(directory, kv_memory="1MiB").card
    assert card.names == ["tiny-llama"]
    assert card.source == str(directory)
    assert (card.context_length, card.vocab_size, card.block_size) == (CONTEXT, VOCAB, 16)
    assert (card.lane, card.dtype, card.device) == ("paged", "float32", "cpu")
    assert card.eos_token_ids == [5]
    own = card.generation_config.pop("watermarking_config")
    assert (own["bias"], own["hashing_key"]) == (2.5, 7)
    assert card.generation_config == defaults
    token_bytes = 2 * 2 * 2 * 8 * 4  # keys and values, 2 layers, 2 heads of 8 float32
    assert card.pool_tokens == (1 << 20) // (16 * token_bytes) * 16
    assert card.created > 1_700_000_000


def test_names_and_lengths_can_be_given(directory: Path) -> None:
    card = load("", spec=ModelSpec(str(directory), names=["a", "b"]), max_model_len=100).card
    assert card.names == ["a", "b"]
    assert card.context_length == 100


def test_the_bundled_model() -> None:
    heard: list[float] = []
    loaded = load_model(ModelSpec("demo"), "cpu", "auto", EngineOptions(), heard.append)
    assert loaded.card.names == ["tokenyard-demo"]
    assert loaded.card.source == str(DEMO_DIR)
    assert loaded.card.eos_token_ids
    assert heard == sorted(heard)
    assert (heard[0], heard[-1]) == (0.0, 1.0)


def test_equal_files_have_equal_commits(directory: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(directory, tmp_path / "copy")
    assert load(copy).card.commit == load(directory).card.commit
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert load(copy).card.commit != load(directory).card.commit


@pytest.mark.slow
def test_a_hub_name_is_pinned_to_its_commit(directory: Path, tmp_path: Path) -> None:
    """From the cache of an earlier download, in a process of its own, as the Hub's settings are read at import."""
    repository = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(directory, repository / "snapshots" / SHA)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(SHA)
    program = (
        "from tokenyard.broker.spec import parse_spec\n"
        "from tokenyard.workers.model import EngineOptions, load_model\n"
        "card = load_model(parse_spec('org/tiny@main'), 'cpu', 'auto', EngineOptions()).card\n"
        "assert (card.names, card.source) == (['org/tiny'], 'org/tiny'), card\n"
        "print(card.commit)"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == SHA, run.stderr


def test_bfloat16_is_served(directory: Path) -> None:
    loaded = load(directory, dtype="bfloat16")
    assert loaded.card.dtype == "bfloat16"
    assert loaded.model.dtype == torch.bfloat16


def test_wrong_attention_is_noticed(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.Step._mask

    def shifted(*arguments: object) -> torch.Tensor:
        return right(*arguments).roll(1, -1)  # type: ignore[arg-type]

    monkeypatch.setattr(attention.Step, "_mask", shifted)
    monkeypatch.setenv("TOKENYARD_CACHE_DIR", str(tmp_path))
    assert load(directory).card.lane == "plain"


def test_words_for_what_cannot_be_loaded(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no such directory"):
        load(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SetupError, match=f"model {empty}: it has no config.json"):
        load(empty)
    broken = shutil.copytree(directory, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(SetupError, match="cannot be loaded"):
        load(broken)
    unknown = shutil.copytree(directory, tmp_path / "unknown")
    (unknown / "config.json").write_text(json.dumps({"model_type": "of-tomorrow"}))
    with pytest.raises(SetupError, match="of-tomorrow"):
        load(unknown)
    senseless = shutil.copytree(directory, tmp_path / "senseless")
    config = json.loads((senseless / "config.json").read_text())
    (senseless / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    with pytest.raises(SetupError, match="hidden_size"):
        load(senseless)
    encoder = save_tiny(tmp_path / "t5", "llama")
    (encoder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(SetupError, match="no causal language model"):
        load(encoder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_model_len": CONTEXT + 1}, "--max-model-len"),
        ({"max_model_len": 0}, "--max-model-len"),
        ({"max_num_seqs": 0}, "--max-num-seqs"),
        ({"max_num_seqs": 8, "max_batch_tokens": 7}, "--max-num-batched-tokens"),
        ({"kv_memory": "lots"}, "--kv-memory"),
        ({"kv_memory": "10B"}, "--kv-memory"),
    ],
)
def test_words_for_impossible_options(directory: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        load(directory, **options)


def test_unknown_dtype(directory: Path) -> None:
    assert OPTIONS["dtype"].words == f"choose one of auto, {', '.join(DTYPES)}"
    with pytest.raises(SetupError, match="--dtype float8"):
        load(directory, dtype="float8")
