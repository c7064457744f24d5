"""What of an adapter's files is read, and what is refused by name."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import VOCAB, Bench, save_tiny
from hub import Hub, point_at
from huggingface_hub import constants
from loras import rack_of, save_lora
from safetensors.torch import load_file, save_file

from tokenyard.broker.errors import TokenyardError
from tokenyard.workers.adapter_files import CONFIG, WEIGHTS, read_adapter
from tokenyard.workers.rack import Rack


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def rack(base: Path) -> Rack:
    return rack_of(Bench.load(base, max_loras=1).engine())


def pair(layer: str, num_inputs: int, num_outputs: int) -> dict[str, torch.Tensor]:
    """An adapter of rank 4 of one layer."""
    sides = {"A": torch.ones(4, num_inputs), "B": torch.ones(num_outputs, 4)}
    return {f"base_model.model.{layer}.lora_{side}.weight": one for side, one in sides.items()}


def change_config(**fields: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        change(tensors)
        save_file({name: one.contiguous() for name, one in tensors.items()}, directory / WEIGHTS)

    return rewrite


def _empty(directory: Path) -> None:
    """Rank 0."""
    change_config(r=0)(directory)
    sides = {f"{Q}.lora_A.weight": torch.ones(0, 32), f"{Q}.lora_B.weight": torch.ones(32, 0)}
    save_file(sides, directory / WEIGHTS)


Q = "base_model.model.model.layers.0.self_attn.q_proj"
WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "dora": (change_config(use_dora=True), "use_dora is set: DoRA"),
    "modules": (change_config(modules_to_save=["lm_head"]), "modules_to_save is set"),
    "tokens": (change_config(trainable_token_indices=[1]), "trainable_token_indices is set"),
    "bias": (change_config(bias="all"), "bias is 'all'"),
    "lora_bias": (change_config(lora_bias=True), "lora_bias is set"),
    "pissa": (change_config(init_lora_weights="pissa_niter_4"), "init_lora_weights is 'pissa_niter_4'"),
    "kind": (change_config(peft_type="IA3"), "peft_type is 'IA3'"),
    "later": (change_config(use_something_new={"a": 1}), "use_something_new is set: only plain LoRA"),
    "rank": (change_config(r=8), "has rank 4, which is not what adapter_config.json says"),
    "pattern": (change_config(rank_pattern={"(": 3}), "rank_pattern: "),
    "object": (lambda directory: (directory / CONFIG).write_text("[]") and None, "holds no object"),
    "json": (lambda directory: (directory / CONFIG).write_text("{") and None, "cannot be read"),
    "cut": (lambda directory: (directory / WEIGHTS).write_bytes(b"12") and None, "cannot be read"),
    "bin": (
        lambda directory: (directory / WEIGHTS).rename(directory / "adapter_model.bin") and None,
        "model.bin is not",
    ),
    "half": (change_tensors(lambda found: found.pop(f"{Q}.lora_B.weight")), "q_proj lacks lora_B"),
    "embedding": (
        change_tensors(lambda found: found.update({"x.lora_embedding_A": torch.ones(2)})),
        "x.lora_embedding_A",
    ),
    "stranger": (change_tensors(lambda found: found.update(pair("y", 2, 2))), "no linear layer y that"),
    "head": (change_tensors(lambda found: found.update(pair("lm_head", 32, VOCAB))), "no linear layer lm_head"),
    "shape": (
        change_tensors(lambda found: found.update({f"{Q}.lora_A.weight": torch.ones(4, 31)})),
        "q_proj has matrices",
    ),
    "scalar": (
        change_tensors(lambda found: found.update({f"{Q}.lora_A.weight": torch.ones(())})),
        "q_proj has matrices",
    ),
    "empty": (_empty, "has rank 0; the server takes 1 to 8"),
    "infinite": (change_tensors(lambda found: found[f"{Q}.lora_B.weight"].fill_(torch.inf)), "not finite"),
    "nothing": (change_tensors(dict.clear), "holds nothing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_plain_lora_is_refused(name: str, base: Path, rack: Rack, tmp_path: Path) -> None:
    change, words = WRONG[name]
    good = save_lora(base, tmp_path / "good", merged=False)
    assert read_adapter(str(good), rack.sizes, 8, torch.float32).products
    change(good)
    with pytest.raises(TokenyardError, match=re.escape(words)) as failure:
        read_adapter(str(good), rack.sizes, 8, torch.float32)
    assert failure.value.code == "invalid_value"
    assert failure.value.param == "lora_path"


def test_what_is_not_there_or_too_large(base: Path, rack: Rack, tmp_path: Path) -> None:
    with pytest.raises(TokenyardError, match=r"rank 4; the server takes 1 to 3 \(--max-lora-rank") as failure:
        read_adapter(str(save_lora(base, tmp_path, merged=False)), rack.sizes, 3, torch.float32)
    assert failure.value.code == "invalid_value"
    for source in ("/there/is/none", "./none", "not a name"):
        with pytest.raises(TokenyardError, match="there is no") as failure:
            read_adapter(source, rack.sizes, 8, torch.float32)
        assert failure.value.code == "model_not_found"


def test_a_version_is_the_files(base: Path, rack: Rack, tmp_path: Path) -> None:
    one, other = (save_lora(base, tmp_path / f"{seed}", seed, merged=False) for seed in (1, 2))
    shutil.copytree(one, tmp_path / "copy")
    first, copied, second = (version(rack, path) for path in (one, tmp_path / "copy", other))
    assert first == copied != second
    change_config(lora_alpha=9)(tmp_path / "copy")
    assert version(rack, tmp_path / "copy") != first


def version(rack: Rack, directory: Path) -> str:
    return read_adapter(str(directory), rack.sizes, 8, torch.float32).version


# The Hub.


def test_an_adapter_of_the_hub(base: Path, rack: Rack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By branch and commit, only what is needed of it; and words for what goes wrong."""
    folder = save_lora(base, tmp_path / "models" / "me" / "lora", merged=False)
    (folder / "optimizer.bin").write_bytes(bytes(100))

    def read(source: str) -> str:
        return read_adapter(source, rack.sizes, 8, torch.float32).version

    def refusal(source: str) -> TokenyardError:
        with pytest.raises(TokenyardError) as failure:
            read(source)
        assert failure.value.param == "lora_path"
        return failure.value

    def change(seed: int) -> None:
        save_lora(base, tmp_path / "fresh", seed, merged=False)
        shutil.copy(tmp_path / "fresh" / WEIGHTS, folder / WEIGHTS)

    expected = version(rack, folder)
    with Hub(tmp_path / "models") as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        assert read("me/lora") == read("me/lora@main") == read(f"me/lora@{hub.repos['me/lora'].commit}") == expected
        assert (hub.fetched(WEIGHTS), hub.fetched("optimizer.bin")) == (1, 0)
        change(seed=2)
        hub.repos["me/lora"].break_after = 0
        assert refusal("me/lora").code == "hub_unreachable"
        hub.down = True
        assert read("me/lora") == expected, "the update that came to nothing is not what the branch is"
        hub.down, hub.repos["me/lora"].break_after = False, None
        assert read("me/lora") == version(rack, folder) != expected
        assert "has no revision 'v9'" in refusal("me/lora@v9").words
        assert "there is no model 'me/other'" in refusal("me/other").words
        (folder / "README.md").write_text("another commit")
        hub.repos["me/lora"].gated = True
        gated = refusal("me/lora")
        assert (gated.code, "is gated" in gated.words) == ("model_gated", True)
        hub.repos["me/lora"].gated = False
        (folder / WEIGHTS).rename(folder / "adapter_model.bin")
        assert "me/lora has no adapter_model.safetensors; adapter_model.bin is not read" in refusal("me/lora").words
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is not in the local Hub cache" in refusal("me/other").words
