"""A GGUF file behind real processes: template, tokens and text are those that transformers has of it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import torch

pytest.importorskip("gguf", reason="pip install tokenyard[gguf]")
from gguf_files import save_model, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer
from yard import Yard

pytestmark = pytest.mark.slow

QUESTIONS = ["Count from 1 to 20.", "What is the capital of France?"]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gguf-") as path:
        source = save_model(Path(path) / "source", "qwen3", head_dim=128)
        write_gguf(Path(path) / "tiny-q8.gguf", source, "Q8_0")
        yield Path(path)


@pytest.fixture(scope="module")
def yard(directory: Path) -> Iterator[Yard]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENYARD_CACHE_DIR", str(directory / "cache"))
        yard = Yard(f"{directory / 'tiny-q8.gguf'},name=tiny,max_model_len=200")
        yield yard
        yard.close()


@torch.inference_mode()
def test_answers_are_those_of_transformers(directory: Path, yard: Yard) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file="tiny-q8.gguf")
    model = AutoModelForCausalLM.from_pretrained(directory, gguf_file="tiny-q8.gguf", dtype=torch.float32)
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        body = {"model": "tiny", "messages": messages, "max_tokens": 16, "temperature": 0, "return_token_ids": True}
        answer = httpx.post(f"{yard.url}/v1/chat/completions", json=body, timeout=60).json()
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        wanted = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :].tolist()
        choice = answer["choices"][0]
        assert answer["usage"]["prompt_tokens"] == ids.shape[1]
        assert choice["token_ids"] == wanted
        assert choice["message"]["content"] == tokenizer.decode(wanted, skip_special_tokens=True)


def test_the_model_is_shown_and_the_front_has_no_torch(directory: Path, yard: Yard) -> None:
    (model,) = httpx.get(f"{yard.url}/v1/models").json()["data"]
    assert (model["id"], model["dtype"], model["context_length"]) == ("tiny", "float32+tiny-q8.gguf", 200)
    maps = [one.path for one in psutil.Process(yard.front.pid).memory_maps()]
    assert not any("libtorch" in path for path in maps)
