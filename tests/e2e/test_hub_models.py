"""A model of the Hub, from an empty cache to its first answer: a worker fetches it, with progress that status shows."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest
from hub import Hub, point_at
from models import DEMO
from safetensors.torch import load_file, save_file
from served import Served
from yard import wait_until

pytestmark = pytest.mark.slow

NUM_SHARDS = 8


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serves org/tiny: the demo model, its weights in parts."""
    folder = tmp_path / "models" / "org" / "tiny"
    shutil.copytree(DEMO, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors, key=lambda name: tensors[name].nbytes)
    weight_map = {}
    for number in range(NUM_SHARDS):
        file = f"model-{number + 1:05}-of-{NUM_SHARDS:05}.safetensors"
        own = names[number::NUM_SHARDS]
        save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(own, file)
    (folder / "model.safetensors.index.json").write_bytes(orjson.dumps({"metadata": {}, "weight_map": weight_map}))
    with Hub(tmp_path / "models") as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        yield hub


def test_a_model_comes_from_the_hub_and_answers(hub: Hub) -> None:
    hub.repos["org/tiny"].bytes_per_s = 500_000
    served = Served("org/tiny@main")
    try:
        wait_until(lambda: (served.run_dir / "front.sock").exists(), "the broker")
        seen: list[int] = []

        def is_up() -> bool:
            workers = served.status()["workers"]
            percent = workers[0]["load"].get("loading_percent") if workers else None
            if percent is not None and percent not in seen:
                seen.append(percent)
            return bool(served.ready_pids())

        wait_until(is_up, "the model")
        served.wait_ready()
        assert seen == sorted(seen)
        assert len([one for one in seen if 0 < one < 80]) >= 4, seen
        body = {"model": "org/tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60).json()
        assert answer["usage"]["completion_tokens"] >= 1
        card = httpx.get(f"{served.url}/v1/models/org/tiny@main").json()
        assert (card["commit"], card["revision"]) == (hub.repos["org/tiny"].commit, "main")
    finally:
        served.close()
    for name in hub.repos["org/tiny"].names():
        assert hub.fetched(name) == 1, f"{name} was sent {hub.fetched(name)} times"
