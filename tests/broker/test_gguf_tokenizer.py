"""The tokenizer of a GGUF file: transformers' own, for workers and, without torch, for fronts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gguf", reason="pip install tokenyard[gguf]")
from gguf_files import TEXTS, save_model, sentencepiece_fields, write_gguf
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tokenyard.broker.gguf_tokenizer import converted

MESSAGES = [{"role": "user", "content": "Hello!"}]
IN_A_FRONT = """
import os, sys, json
os.environ["USE_TORCH"] = "0"
from models import CARD
from tokenyard.http.library import LoadedTokenizer, load_tokenizer
card = CARD._replace(source=sys.argv[1], commit="digest", file="m.gguf")
loaded = LoadedTokenizer(load_tokenizer(card))
assert "torch" not in sys.modules
ids = [loaded.backend.encode(text).ids for text in json.loads(sys.argv[2])]
print(json.dumps([ids, loaded.template, loaded.special]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENYARD_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("fields", [{}, sentencepiece_fields(), {"tokenizer.ggml.pre": "llama-bpe"}])
def test_it_is_transformers_own(source: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    write_gguf(tmp_path / "m.gguf", source, fields=fields)
    own = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    made = PreTrainedTokenizerFast.from_pretrained(converted(str(tmp_path), "digest", "m.gguf", apart=False))
    for text in [*TEXTS, "hello, world", "<|im_start|>user <think></s>"]:
        assert made.encode(text) == own.encode(text)
        assert made.decode(made.encode(text)) == own.decode(own.encode(text))
    assert made.apply_chat_template(MESSAGES, tokenize=False) == own.apply_chat_template(MESSAGES, tokenize=False)
    assert made.special_tokens_map == own.special_tokens_map
    if "tokenizer.ggml.scores" in fields:
        assert made.encode("hello")[0] == 1, "llama.cpp begins such texts with <s>, where nothing is said"


@pytest.mark.slow
def test_a_front_has_it_without_torch(source: Path, tmp_path: Path) -> None:
    """Made in a process of its own, which gives the very files that a worker would make."""
    write_gguf(tmp_path / "m.gguf", source)
    support = Path(__file__).resolve().parents[1] / "support"
    paths = os.pathsep.join(filter(None, [str(support), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "TOKENYARD_CACHE_DIR": str(tmp_path / "apart")}
    line = [sys.executable, "-c", IN_A_FRONT, str(tmp_path), json.dumps(TEXTS)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ids, template, special = json.loads(done.stdout)
    within = converted(str(tmp_path), "digest", "m.gguf", apart=False)
    apart = tmp_path / "apart" / "tokenizers" / within.name
    assert {one.name: one.read_bytes() for one in within.iterdir()} == {
        one.name: one.read_bytes() for one in apart.iterdir()
    }
    own = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert ids == [own.encode(text) for text in TEXTS]
    assert template == own.chat_template
    assert special == {"<|endoftext|>": 2037, "<|im_start|>": 2038, "<|im_end|>": 2039}


@pytest.mark.slow
def test_a_broken_file_is_told(source: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", source, fields={"tokenizer.ggml.model": "rwkv"})
    with pytest.raises(ValueError, match=r"cannot be read from m\.gguf: ValueError: Cannot build a tokenizer"):
        converted(str(tmp_path), "digest", "m.gguf")
    assert [path.suffix for path in (tmp_path / "cache" / "tokenizers").iterdir()] == [".lock"]
