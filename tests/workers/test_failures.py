"""What is wrong with a model's files is one line that names the model and the cause; nothing is drawn at random."""

import errno
import json
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import save_tiny
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BertForSequenceClassification, ViTModel

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import ModelSpec
from tokenyard.workers import checkpoint
from tokenyard.workers.failures import words_for
from tokenyard.workers.model import EngineOptions, LoadedModel, load_model

INDEX = "model.safetensors.index.json"
SMALL_VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SMALL_TEXT = {"vocab_size": 211, **SMALL_VISION}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in five shards."""
    one = save_tiny(tmp_path_factory.mktemp("models") / "one", "llama")
    several = one.with_name("several")
    AutoModelForCausalLM.from_pretrained(one).save_pretrained(several, max_shard_size="30KB")
    assert len(shards(several)) > 2
    return several


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def load(folder: Path) -> LoadedModel:
    return load_model(ModelSpec(str(folder)), "cpu", "float32", EngineOptions(kv_memory="1MiB"))


def told(folder: Path) -> str:
    """What the user reads of it, without the model's name."""
    with pytest.raises(SetupError) as caught:
        load(folder)
    words = str(caught.value)
    assert words.startswith(f"model {folder}: ")
    assert "\n" not in words
    return words.removeprefix(f"model {folder}: ")


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


def cut_a_shard(folder: Path) -> None:
    with shards(folder)[1].open("r+b") as file:
        file.truncate(shards(folder)[1].stat().st_size - 5)


def cut_a_header(folder: Path) -> None:
    with shards(folder)[1].open("r+b") as file:
        file.truncate(100)


def garble_a_shard(folder: Path) -> None:
    shards(folder)[1].write_bytes(b"these are no weights " * 9)


def take_a_shard(folder: Path) -> None:
    shards(folder)[1].unlink()


def take_all_shards(folder: Path) -> None:
    for path in (*shards(folder), folder / INDEX):
        path.unlink()


def take_a_weight(folder: Path) -> None:
    """As if it had never been saved: the index does not know it either."""
    path = shards(folder)[1]
    weights = load_file(path)
    name = sorted(weights)[0]
    del weights[name]
    save_file(weights, path, {"format": "pt"})
    index = json.loads((folder / INDEX).read_bytes())
    del index["weight_map"][name]
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda d: (d / "config.json").unlink(), r"it has no config\.json; a GGUF file is chosen by"),
        (
            lambda d: (d / "config.json").write_text('{"model_type": '),
            r"config\.json is no JSON: Expecting value: line 1",
        ),
        (lambda d: (d / "config.json").write_bytes(b"\xff\xfe{}"), r"config\.json is no JSON: "),
        (lambda d: (d / "config.json").write_text("[]"), r"config\.json is no JSON object"),
        (lambda d: (d / "config.json").write_text("{}"), r"Unrecognized model in .*`model_type`"),
        (lambda d: change(d / "config.json", model_type="of-tomorrow"), "of-tomorrow"),
        (lambda d: change(d / "config.json", num_attention_heads=0), "no sense of its files .ZeroDivisionError: "),
        (lambda d: change(d / "config.json", hidden_size="wide"), "hidden_size"),
        (lambda d: change(d / "config.json", hidden_size=64), "weights have other shapes than its config says: .*and "),
        (
            lambda d: change(d / "config.json", num_hidden_layers=3),
            r"weights are missing: model\.layers\.2\..* and 5 more",
        ),
        (lambda d: (d / INDEX).write_text("{"), rf"{INDEX} is no JSON: "),
        (lambda d: (d / INDEX).write_text("{}"), f"{INDEX} is no index of weights"),
        (cut_a_shard, r"model-00002-of-0000\d\.safetensors is cut short: it has [\d,]+ of [\d,]+ bytes"),
        (cut_a_header, r"model-00002-of-0000\d\.safetensors is cut short or no safetensors file"),
        (garble_a_shard, r"model-00002-of-0000\d\.safetensors is no safetensors file"),
        (take_a_shard, rf"{INDEX} names model-00002-of-0000\d\.safetensors, which is not there"),
        (take_all_shards, r"no file named model\.safetensors"),
        (take_a_weight, r"as LlamaForCausalLM: weights are missing: "),
    ],
)
def test_words_for_broken_files(whole: Path, tmp_path: Path, harm: Callable[[Path], object], words: str) -> None:
    folder = shutil.copytree(whole, tmp_path / "m")
    harm(folder)
    assert re.search(words, told(folder)), told(folder)


def test_a_pickle_that_is_none(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "m")
    take_all_shards(folder)
    for content in (b"", b"weights" * 100):
        (folder / "pytorch_model.bin").write_bytes(content)
        assert told(folder).startswith("it cannot be loaded: ")


# What is no language model


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    vision = tmp_path / "vision"
    ViTModel(AutoConfig.for_model("vit", image_size=16, patch_size=8, **SMALL_VISION)).save_pretrained(vision)
    assert told(vision) == "it is no model of texts: its config has no vocab_size"
    labels = tmp_path / "labels"
    BertForSequenceClassification(AutoConfig.for_model("bert", **SMALL_TEXT)).save_pretrained(labels)
    assert told(labels).startswith(
        "it cannot be loaded as BertLMHeadModel, which is a BertForSequenceClassification: weights are missing: "
    )
    both = tmp_path / "both"
    text = AutoConfig.for_model("clip_text_model", **SMALL_TEXT, max_position_embeddings=16)
    image = AutoConfig.for_model("clip_vision_model", **SMALL_VISION, image_size=16, patch_size=8)
    config = AutoConfig.for_model("clip", text_config=text.to_dict(), vision_config=image.to_dict(), projection_dim=8)
    AutoModel.from_config(config).save_pretrained(both)
    assert "it makes no vectors of texts" in told(both)


def test_a_head_drawn_at_random_is_refused(whole: Path, tmp_path: Path) -> None:
    """The body of a language model, called one: transformers would go on with a head that means nothing."""
    body = AutoModel.from_pretrained(whole)
    body.config.architectures = ["LlamaForCausalLM"]
    body.save_pretrained(tmp_path)
    change(tmp_path / "config.json", architectures=["LlamaForCausalLM"], tie_word_embeddings=False)
    assert told(tmp_path) == "it cannot be loaded as LlamaForCausalLM: weights are missing: lm_head.weight"


# Quantized by others


@pytest.mark.parametrize(
    ("config", "package", "words"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptqmodel", "pip install"),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
            "gptqmodel",
            "pip install gptqmodel",
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", "pip install -U bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "compressed_tensors", "pip install compressed-tensors"),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}},
            "torchao",
            r"pip install 'tokenyard\[quantization\]'",
        ),
    ],
)
def test_a_missing_package_is_named(
    whole: Path, tmp_path: Path, config: dict[str, Any], package: str, words: str
) -> None:
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    folder = shutil.copytree(whole, tmp_path / "m")
    change(folder / "config.json", quantization_config=config)
    assert re.search(words, told(folder)), told(folder)


def test_words_for_a_full_disk() -> None:
    assert words_for(OSError(errno.ENOSPC, "No space left on device", "/cache/x"), None) == (
        "no space is left on the disk of /cache/x"
    )


def test_a_failure_of_our_own_is_none_of_the_models(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are for what a user can mend; a mistake in here must leave its trace."""

    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("ours")

    monkeypatch.setattr(checkpoint.Checkpoint, "_refuse_drawn", fails)
    with pytest.raises(torch.OutOfMemoryError):
        load(whole)
