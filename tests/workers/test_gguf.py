"""GGUF files: served as transformers loads them, found where they are, and words for what is none."""

import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import parse_spec
from tokenyard.workers import gguf_reading
from tokenyard.workers.checkpoint import Checkpoint
from tokenyard.workers.engine import Engine
from tokenyard.workers.gguf_reading import open_gguf
from tokenyard.workers.model import EngineOptions, LoadedModel, load_model

pytest.importorskip("gguf", reason="pip install tokenyard[gguf]")
from engines import greedy, run_one
from gguf_files import save_model, write_gguf
from hub import Hub, point_at

PROMPT = [5, 900, 33, 1700, 12, 77, 640, 2, 2038, 411, 18]
FAMILIES: dict[str, dict[str, Any]] = {"llama": {}, "qwen3": {"head_dim": 128}}
"""llama.cpp stores Llama's rotary pairs in another order; of a Qwen3, transformers does not read the heads' size."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`FAMILY` as safetensors, `FAMILY-KIND/tiny.gguf`."""
    folder = tmp_path_factory.mktemp("gguf")
    for family, extra in FAMILIES.items():
        source = save_model(folder / family, family, **extra)
        for kind in ("F32", "Q8_0"):
            (folder / f"{family}-{kind}").mkdir()
            write_gguf(folder / f"{family}-{kind}" / "tiny.gguf", source, kind)
    return folder


def load(spec: object, **options: Any) -> LoadedModel:
    return load_model(parse_spec(str(spec)), "cpu", "float32", EngineOptions(kv_memory="1MiB", **options))


@torch.inference_mode()
def logits_of(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_tokens_are_those_of_transformers(folder: Path, family: str, kind: str) -> None:
    directory = folder / f"{family}-{kind}"
    loaded = load(directory / "tiny.gguf")
    assert (loaded.card.names, loaded.card.source, loaded.card.file) == (["tiny"], str(directory), "tiny.gguf")
    assert (loaded.card.lane, loaded.card.dtype, loaded.card.eos_token_ids) == ("paged", "float32+tiny.gguf", [2039])
    reference = Reference(directory, gguf_file="tiny.gguf")
    stream = run_one(Engine(loaded, EngineOptions()), PROMPT, greedy(24))
    reference.check_greedy(PROMPT, stream.ids)
    exact = logits_of(Reference(folder / family).model)
    error = ((logits_of(reference.model) - exact).square().mean() / exact.square().mean()).sqrt()
    assert error < 1e-6 if kind == "F32" else 1e-3 < error < 0.05, "the file holds the model, as far as 8 bits can"


def test_ways_to_name_a_file(folder: Path, tmp_path: Path) -> None:
    """Each is the same model, and the other files beside it do not count."""
    cards = [load(spec).card for spec in (folder / "llama-Q8_0", folder / "llama-Q8_0" / "tiny.gguf")]
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / "llama" / name, tmp_path)
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(folder / "llama-Q8_0" / "tiny.gguf", tmp_path / name)
    cards.append(load(f"{tmp_path},file=a.gguf,name=mine").card)
    assert [card.names for card in cards] == [["llama-Q8_0"], ["tiny"], ["mine"]]
    assert cards[0].commit == cards[1].commit
    assert cards[2].file == "a.gguf"
    before = cards[2].commit
    (tmp_path / "b.gguf").unlink()
    assert load(f"{tmp_path},file=a.gguf").card.commit == before
    assert load(tmp_path).card.file == "", "a config.json goes before a file that nobody named"


def test_a_file_of_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is fetched, and of the files beside it only small ones."""
    repository = tmp_path / "models" / "org" / "tiny-GGUF"
    (repository / "q8").mkdir(parents=True)
    for name in ("q8/tiny.gguf", "q4.gguf"):
        shutil.copy(folder / "llama-Q8_0" / "tiny.gguf", repository / name)
    with Hub(tmp_path / "models") as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        card = load("org/tiny-GGUF@main,file=q8/tiny.gguf").card
        commit = hub.repos["org/tiny-GGUF"].commit
        assert (card.names, card.source, card.commit) == (["org/tiny-GGUF"], "org/tiny-GGUF", commit)
        assert (card.file, card.dtype) == ("q8/tiny.gguf", "float32+q8/tiny.gguf")
        assert hub.fetched("q8/tiny.gguf") == 1
        assert hub.fetched("q4.gguf") == 0
        with pytest.raises(SetupError, match=r"^model org/tiny-GGUF: it has no file q2\.gguf; .* ,file=q4\.gguf$"):
            load("org/tiny-GGUF,file=q2.gguf")


def test_what_is_here_is_loaded_without_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else transformers asks for each file that a model might have: without a network three quarters of a minute."""
    shutil.copytree(folder / "llama", tmp_path / "models" / "org" / "whole")
    shutil.copytree(folder / "llama-Q8_0", tmp_path / "models" / "org" / "gguf")
    with Hub(tmp_path / "models") as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        specs = [
            f"org/{name}@{hub.repos[f'org/{name}'].commit}{keys}"
            for name, keys in (("whole", ""), ("gguf", ",file=tiny.gguf"))
        ]
        for spec in specs:
            load(spec)
        monkeypatch.setenv("TOKENYARD_CACHE_DIR", str(tmp_path / "fresh"))  # tokenizers are made anew
        before = len(hub.requests)
        for spec in specs:
            load(spec)
        assert hub.requests[before:] == []


def test_all_ends_that_a_file_names_end_a_stream(folder: Path, tmp_path: Path) -> None:
    """transformers reads only the first; without the second, a chat of Gemma's would go on for ever."""
    path = write_gguf(tmp_path / "m.gguf", folder / "llama", fields={"tokenizer.ggml.eot_token_id": 900})
    loaded = load(path)
    assert loaded.card.eos_token_ids == [2039, 900]
    assert run_one(Engine(replace(loaded), EngineOptions()), PROMPT, greedy(8)).ids


# Words


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"general.architecture": "bert"}, "GGUF model with architecture bert is not supported yet"),
        ({"split.count": 3, "split.no": 1}, "m.gguf: it is part 2 of 3: join the parts with llama.cpp's"),
        ({"tokenizer.ggml.model": "rwkv"}, "Cannot build a tokenizer from a GGUF file stating tokenizer 'rwkv'"),
        (
            {"ARCH.embedding_length": 128},
            "shapes than its config says: lm_head.weight [2048, 64], not [2048, 128]",
        ),
    ],
)
def test_words_for_files_that_are_not_served(folder: Path, tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", folder / "llama", fields=fields)
    with pytest.raises(SetupError) as caught:
        load(path)
    assert str(caught.value).startswith(f"model {path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing_are_named(folder: Path, tmp_path: Path) -> None:
    """transformers would draw them."""
    name = "model.layers.1.mlp.down_proj.weight"
    path = write_gguf(tmp_path / "m.gguf", folder / "llama", without=[name])
    with pytest.raises(SetupError, match=f"as LlamaForCausalLM: weights are missing: {name}$"):
        load(path)


def test_words_for_what_is_no_gguf(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "llama-Q8_0" / "tiny.gguf").read_bytes()
    path = tmp_path / "x.gguf"
    for content, words in (
        (b"", "x.gguf is no GGUF file, or broken: "),
        (b"weights", "x.gguf: it is no GGUF file"),
        (b"GGUF" + struct.pack("<I", 9) + whole[8:], "x.gguf: GGUF version 9 is not served, only 2 and 3"),
        (whole[:500], "x.gguf is no GGUF file, or broken: "),
        (whole[:-100], f"x.gguf: it is cut short: it has {len(whole) - 100:,} of "),
    ):
        path.write_bytes(content)
        with pytest.raises(SetupError, match=f"^model {path}: {words}"):
            load(path)
    with pytest.raises(SetupError, match=r"there is no file y\.gguf; there are x\.gguf$"):
        load(f"{tmp_path},file=y.gguf")
    (tmp_path / "z.gguf").touch()
    with pytest.raises(SetupError, match=r"choose one with ,file=NAME; there are x\.gguf, z\.gguf$"):
        load(tmp_path)
    with pytest.raises(SetupError, match="there is no such directory or GGUF file"):
        load(f"{tmp_path}/none.gguf")
    with pytest.raises(SetupError, match=r"one on the Hub is OWNER/NAME,file=FILE\.gguf"):
        load("models/none.gguf")
    checkpoint = Checkpoint(parse_spec(str(folder / "llama-F32")), trust_remote_code=False)
    with pytest.raises(SetupError, match="quantization does not go with a GGUF file"):
        checkpoint.read_weights(quantization_config=object())


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_reading, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"needs gguf and accelerate: pip install 'tokenyard\[gguf\]'"):
        load(folder / "llama-F32")


@settings(max_examples=300)
@given(st.data())
def test_a_broken_head_is_told_and_never_crashes(folder: Path, data: st.DataObject) -> None:
    whole = (folder / "llama-Q8_0" / "tiny.gguf").read_bytes()
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, max(0, min(len(broken), 3000) - 8)))
        broken[place : place + 8] = data.draw(st.binary(min_size=1, max_size=8))
    path = folder / "broken.gguf"
    path.write_bytes(broken)
    try:
        open_gguf(path)
    except SetupError:
        return
