"""What weights take in memory, by the dtype that they are loaded in."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub import Hub, point_at
from models import DEMO

from tokenyard.broker.spec import parse_spec
from tokenyard.http.catalog.finder import Finder
from tokenyard.http.catalog.policy import Policy
from tokenyard.http.catalog.weights import Weights, guessed, tensors_in

SIZES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}


def save(path: Path, **numbers: int) -> Path:
    """A safetensors file with a tensor of so many numbers of each dtype."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for dtype, count in numbers.items():
        start, end = end, end + count * SIZES[dtype]
        header[dtype] = {"dtype": dtype, "shape": [count], "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(end))
    return path


@pytest.mark.parametrize(
    ("numbers", "gpu", "cpu", "narrow_cpu"),
    [
        ({"BF16": 1000}, 2000, 4000, 2000),
        ({"F16": 1000, "F32": 10}, 2040, 4040, 2020),
        ({"F32": 1000}, 4000, 4000, 2000),
        ({"I8": 1000, "BF16": 10}, 1020, 1040, 1020),
        ({"F8_E4M3": 1000, "BF16": 10}, 1020, 4040, 2020),
        ({"U8": 500, "F16": 10}, 520, 540, 520),
    ],
    ids=str,
)
def test_floats_are_widened_on_a_cpu(
    numbers: dict[str, int], gpu: int, cpu: int, narrow_cpu: int, tmp_path: Path
) -> None:
    weights = tensors_in(save(tmp_path / "model.safetensors", **numbers))
    assert weights.in_memory("auto", on_cpu=False) == weights.size == gpu
    assert weights.in_memory("auto", on_cpu=True) == weights.in_memory("float32", on_cpu=True) == cpu
    assert weights.in_memory("bfloat16", on_cpu=True) == narrow_cpu


@pytest.mark.parametrize(
    ("config", "cpu"),
    [
        ({"dtype": "bfloat16"}, 2000),
        ({"torch_dtype": "float16"}, 2000),
        ({"text_config": {"dtype": "bfloat16"}}, 2000),
        ({"dtype": "float32"}, 1000),
        ({}, 1000),
        ({"dtype": "bfloat16", "quantization_config": {"quant_method": "gptq"}}, 1000),
        ({"dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}}, 4000),
    ],
    ids=str,
)
def test_what_is_still_on_the_hub_goes_by_its_config(config: dict[str, Any], cpu: int) -> None:
    assert guessed(1000, config).in_memory("auto", on_cpu=True) == cpu
    assert guessed(1000, config).in_memory("auto", on_cpu=False) == 1000


def test_the_options_of_pool_and_model_count(tmp_path: Path) -> None:
    def sizes(spec: str, **policy: Any) -> tuple[int, int]:
        target = Finder(Policy(**policy)).of_spec(parse_spec(spec))
        return target.weight_bytes, target.cpu_bytes

    size = sizes("demo")[0]
    shutil.copytree(DEMO, tmp_path / "demo")
    weights = tensors_in(Path(DEMO) / "model.safetensors")
    assert sizes(str(tmp_path / "demo")) == (size, weights.in_memory("float32", on_cpu=True))
    assert sizes("demo,dtype=float32") == (4 * weights.num_floats, 4 * weights.num_floats)
    assert sizes("demo", dtype="bfloat16") == (2 * weights.num_floats, 2 * weights.num_floats)
    assert sizes("demo,dtype=float32", dtype="bfloat16") == (4 * weights.num_floats, 4 * weights.num_floats)
    assert sizes("demo", quantization="int8") == (size, size)
    assert sizes("demo,quantization=off", quantization="int8")[1] == 4 * weights.num_floats


def test_before_and_after_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models" / "org" / "narrow"
    shutil.copytree(DEMO, folder)
    save(folder / "model.safetensors", BF16=5000)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    with Hub(tmp_path / "models") as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        target = Finder(Policy(allow=("*",))).find("org/narrow")
    assert not target.cached
    told = (folder / "model.safetensors").stat().st_size
    assert (target.weight_bytes, target.cpu_bytes) == (told, 2 * told)


def test_a_repository_of_parts_is_summed() -> None:
    assert Weights(*map(sum, zip(Weights(10, 5, 10), Weights(20, 1, 2, 3), strict=True))) == Weights(30, 6, 12, 3)
