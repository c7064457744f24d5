"""Random models have the shapes that their names promise, and a tokenizer that gives text for every id."""

from pathlib import Path
from typing import Any

import bench_models
import pytest
from bench_models import END, SHAPES, find_model, make_tokenizer
from prompts import make_prompt
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

TINY: dict[str, Any] = {
    **SHAPES["qwen3-60m"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "vocab_size": 1000,
}


@pytest.mark.parametrize(("name", "millions"), [("qwen3-60m", 60), ("qwen3-0.6b", 596), ("qwen3-8b", 8191)])
def test_shapes_have_as_many_weights_as_they_are_called_after(name: str, millions: int) -> None:
    import torch

    with torch.device("meta"):
        config = AutoConfig.for_model("qwen3", **SHAPES[name])
        model = AutoModelForCausalLM.from_config(config)
    assert round(sum(one.numel() for one in model.parameters()) / 1e6) == millions


@pytest.mark.parametrize("vocab_size", [1000, 16_384])
def test_the_tokenizer_fills_the_vocabulary_and_gives_words_back(vocab_size: int) -> None:
    tokenizer = make_tokenizer(vocab_size)
    assert tokenizer.get_vocab_size() == vocab_size
    prompt = make_prompt(1, 60, lambda text: len(tokenizer.encode(text)))
    ids = tokenizer.encode(prompt).ids
    assert len(ids) == 60
    assert tokenizer.decode(ids) == prompt
    grown = range(256, vocab_size - 3)
    assert all(tokenizer.decode([index]).strip().isalpha() for index in grown)


def test_a_model_is_made_once_and_loads_with_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENYARD_BENCH_CACHE", str(tmp_path))
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    directory = find_model("tiny")
    assert Path(directory).is_relative_to(tmp_path)
    config = AutoConfig.from_pretrained(directory)
    assert (config.vocab_size, config.tie_word_embeddings) == (1000, True)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert len(tokenizer) == 1000
    assert config.eos_token_id == tokenizer.convert_tokens_to_ids(END)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    monkeypatch.setattr(bench_models, "write_model", None)  # a second call would fail
    assert find_model("tiny") == directory


def test_a_failed_model_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENYARD_BENCH_CACHE", str(tmp_path))
    monkeypatch.setitem(SHAPES, "tiny", {**TINY, "hidden_size": -1})
    with pytest.raises(RuntimeError):
        find_model("tiny")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_other_names_are_given_back() -> None:
    assert find_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert Path(find_model("demo"), "model.safetensors").exists()
