"""Which model a name means: against a real huggingface_hub, a stand-in for the Hub and real model files."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_head import least_gguf
from hub import TOKEN, Hub, point_at
from huggingface_hub import constants, snapshot_download
from models import DEMO

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.spec import parse_spec
from tokenyard.http.catalog import catalog as catalog_module
from tokenyard.http.catalog.catalog import Catalog, Listed, Policy, Target

WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serves org/tiny and other/tiny, copies of the demo model."""
    for name in ("org/tiny", "other/tiny"):
        shutil.copytree(DEMO, tmp_path / "models" / name)
    with Hub(tmp_path / "models") as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        yield hub


def resolve(policy: Policy, *names: str) -> list[Target]:
    async def run() -> list[Target]:
        catalog = Catalog(policy)
        try:
            return [await catalog.resolve(name) for name in names]
        finally:
            catalog.close()

    return asyncio.run(run())


def refused(policy: Policy, name: str) -> TokenyardError:
    with pytest.raises(TokenyardError) as caught:
        resolve(policy, name)
    assert caught.value.param == "model"
    return caught.value


def listed(policy: Policy) -> list[Listed]:
    return asyncio.run(Catalog(policy).listing())


def size_of(folder: str | Path) -> int:
    return (Path(folder) / WEIGHTS).stat().st_size


def test_names_stand_for_commits_and_directories(hub: Hub, tmp_path: Path) -> None:
    commit = hub.repos["org/tiny"].commit
    shutil.copytree(DEMO, tmp_path / "dir" / "mine")
    shutil.copytree(DEMO, tmp_path / "dir" / "me" / "mine")
    (tmp_path / "dir" / "small.gguf").write_bytes(least_gguf(320))
    named = ("demo", "org/tiny,name=chat,name=talk,pin,dtype=float32", f"{DEMO},name=local")
    policy = Policy(named, ("org/*",), tmp_path / "dir")
    wanted = {
        "tokenyard-demo": ("tokenyard-demo", "demo"),
        "chat": ("chat", f"org/tiny@{commit},name=chat,name=talk,pin,dtype=float32"),
        "talk": ("chat", f"org/tiny@{commit},name=chat,name=talk,pin,dtype=float32"),
        "local": ("local", f"{DEMO},name=local"),
        "org/tiny": ("org/tiny", f"org/tiny@{commit}"),
        "org/tiny@main": ("org/tiny@main", f"org/tiny@{commit},name=org/tiny@main"),
        f"org/tiny@{commit}": (f"org/tiny@{commit}", f"org/tiny@{commit},name=org/tiny@{commit}"),
        "mine": ("mine", str(tmp_path / "dir" / "mine")),
        "me/mine": ("me/mine", f"{tmp_path}/dir/me/mine,name=me/mine"),
        "small": ("small", str(tmp_path / "dir" / "small.gguf")),
    }
    found = resolve(policy, *wanted)
    assert [(one.id, one.spec) for one in found] == list(wanted.values())
    for one in found:
        assert parse_spec(one.spec).called[0] == one.id
        on_hub = one.spec.startswith("org/")
        assert one.cached == (not on_hub)
        assert on_hub or one.spec.endswith("gguf") or size_of(DEMO) - 10_000 < one.weight_bytes < size_of(DEMO)


def test_a_gguf_file_of_the_hub(hub: Hub) -> None:
    """It counts as large as it will be, also where only the Hub has read its head."""
    path = hub.repos["org/tiny"].folder / "q4.gguf"
    path.write_bytes(least_gguf(3200))
    size = path.stat().st_size
    assert size < 6400
    policy = Policy(("org/tiny,name=q4,file=q4.gguf", "org/tiny,name=q8,file=q8.gguf"))
    commit = hub.repos["org/tiny"].commit
    target = Target("q4", f"org/tiny@{commit},name=q4,file=q4.gguf", 6400, 12800, False)
    assert resolve(policy, "q4") == [target]
    hub.repos["org/tiny"].num_gguf_parameters = 1 << 40  # those of a file of another model
    assert resolve(policy, "q4") == [target._replace(weight_bytes=size, cpu_bytes=size)]
    snapshot_download("org/tiny", allow_patterns=["*.gguf", "*.json", "*.jinja"])
    assert resolve(policy, "q4") == [target._replace(cached=True)]
    assert "it has no file q8.gguf" in refused(policy, "q8").words
    assert [one.size for one in listed(policy)] == [6400, 0]


def test_a_downloaded_model_is_measured_and_needs_no_file_of_the_hub(hub: Hub) -> None:
    snapshot_download("org/tiny")
    before = len(hub.requests)
    (target,) = resolve(Policy(allow=("org/tiny",)), "org/tiny")
    assert target.cached
    assert target.weight_bytes == size_of(DEMO) - 8 - int.from_bytes((Path(DEMO) / WEIGHTS).read_bytes()[:8], "little")
    assert hub.requests[before:] == ["GET /api/models/org/tiny"]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            "/",
            "~",
            "../secret",
            "dir/../../secret",
            "/etc",
            "~root",
            "org/tiny/../x",
            "a/b/c",
            "./mine",
        ),
        *(
            "mine/",
            "mine\0",
            "mi\\ne",
            "leads-out",
            "org/leads-out",
            ".hidden",
            "x" * 10_000,
            "mine/" * 40,
            "hf://org/m",
        ),
        *(
            "org--tiny",
            "org/tiny@",
            "org/tiny@../../refs",
            "org/tiny@a/../b",
            "org/tiny@-x",
            "org/tiny@x@y",
            "org/ti ny",
        ),
    ],
)
def test_nothing_else_of_the_file_system_has_a_name(hub: Hub, tmp_path: Path, name: str) -> None:
    root = tmp_path / "dir"
    for path in (root / "mine", root / ".hidden", tmp_path / "secret"):
        shutil.copytree(DEMO, path)
    (root / "org").mkdir()
    (root / "leads-out").symlink_to(tmp_path / "secret")
    (root / "org" / "leads-out").symlink_to(tmp_path / "secret")
    error = refused(Policy((), ("mine", "org/tiny"), root), name)
    assert error.code == "model_not_found"
    assert len(error.words) < 400


def test_a_refusal_says_what_would_be_allowed(hub: Hub, tmp_path: Path) -> None:
    policy = Policy(("demo", "org/tiny,name=chat"), ("org/*", "cached"), tmp_path)
    error = refused(policy, "other/tiny")
    assert error.code == "model_not_found"
    for words in ("chat, tokenyard-demo", "org/*", "local Hub cache", "--models-dir", "'other/tiny'"):
        assert words in error.words
    assert hub.requests == []
    assert "none to be loaded" in refused(Policy(), "org/tiny").words


def test_what_is_in_the_cache_may_be_asked_for_without_the_hub(hub: Hub) -> None:
    snapshot_download("org/tiny")
    before = len(hub.requests)
    policy = Policy(allow=("cached",))
    commit = hub.repos["org/tiny"].commit
    assert [one.spec for one in resolve(policy, "org/tiny")] == [f"org/tiny@{commit}"]
    assert "not served here" in refused(policy, "other/tiny").words
    assert len(hub.requests) == before


def test_twenty_requests_share_one_look_up(hub: Hub) -> None:
    hub.repos["org/tiny"].wait_s = 1.0

    async def run() -> tuple[list[Target], float]:
        catalog = Catalog(Policy(allow=("org/*",)))
        look_ups = [asyncio.create_task(catalog.resolve("org/tiny")) for _ in range(20)]
        gone = asyncio.create_task(catalog.resolve("org/tiny"))
        await asyncio.sleep(0)
        gone.cancel()
        worst, last = 0.0, time.monotonic()
        while not all(task.done() for task in look_ups):
            await asyncio.sleep(0.005)
            worst, last = max(worst, time.monotonic() - last), time.monotonic()
        return [task.result() for task in look_ups], worst

    found, worst_gap_s = asyncio.run(run())
    assert len(set(found)) == 1
    assert hub.requests.count("GET /api/models/org/tiny") == 1
    assert worst_gap_s < 0.5, "the event loop was blocked"


def test_names_without_end_are_bounded(hub: Hub) -> None:
    hub.repos["org/tiny"].wait_s = 0.3

    async def run() -> list[str]:
        catalog = Catalog(Policy(allow=("org/*",)))
        names = [f"org/tiny@r{number}" for number in range(catalog_module.MAX_LOOK_UPS + 1)]
        tasks = [asyncio.create_task(catalog.resolve(name)) for name in names]
        await asyncio.wait(tasks[-1:])
        code: str = tasks[-1].exception().code  # type: ignore[union-attr]
        catalog.close()
        for task in tasks:
            task.cancel()
        return [code]

    assert asyncio.run(run()) == ["queue_full"]


def test_failures_are_remembered_for_a_moment_and_branches_longer(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "FAILURE_S", 0.3)

    async def run() -> None:
        catalog = Catalog(Policy(allow=("org/*",)))
        for _ in range(3):
            with pytest.raises(TokenyardError, match="no revision 'v2'"):
                await catalog.resolve("org/tiny@v2")
        assert hub.requests.count("GET /api/models/org/tiny/revision/v2") == 1
        hub.repos["org/tiny"].branches["v2"] = hub.repos["org/tiny"].commit
        await asyncio.sleep(0.3)
        for _ in range(3):
            await catalog.resolve("org/tiny@v2")
        # Once for the branch; the sizes of a commit that is not here are asked for each time.
        assert hub.requests.count("GET /api/models/org/tiny/revision/v2") == 2
        catalog.close()

    asyncio.run(run())


def test_words_for_each_failure(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(allow=("*",))
    repo = hub.repos["org/tiny"]

    def told(name: str = "org/tiny") -> tuple[str, str]:
        error = refused(policy, name)
        return error.code, error.words

    assert told("org/none") == (
        "model_not_found",
        f"there is no model 'org/none' at {hub.url}, or it is private and needs HF_TOKEN in the server's environment",
    )
    repo.gated = True
    code, words = told()
    assert code == "model_gated"
    assert f"accept its terms at {hub.url}/org/tiny, and start the server with HF_TOKEN" in words
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert resolve(policy, "org/tiny")
    repo.gated = False
    repo.claims[WEIGHTS] = 10**16
    code, words = told()
    assert code == "disk_full"
    assert f"needs 10,000,000.0 GB more in {tmp_path}/cache, where " in words
    repo.claims.clear()
    hub.down = True
    code, words = told()
    assert (code, words) == ("hub_unreachable", f"{hub.url} answered 503 when it was asked for the model 'org/tiny'")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, words = told()
    assert code == "hub_unreachable"
    assert "is not in the local Hub cache, and http://127.0.0.1:9 cannot be reached" in words
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, words = told()
    assert code == "model_not_found"
    assert "is not in the local Hub cache, and HF_HUB_OFFLINE forbids to fetch it" in words


def test_without_the_hub_the_cache_serves(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.repos["org/tiny"].commit
    snapshot_download("org/tiny", revision=commit)
    resolve(Policy(allow=("*",)), "org/tiny")  # so that the cache knows which commit main is
    hub.down = True
    before = len(hub.requests)
    assert len(set(resolve(Policy(allow=("*",)), "org/tiny", "org/tiny", "org/tiny"))) == 1
    assert len(hub.requests) == before + 1, "asked again and again"
    for name, value in (("ENDPOINT", "http://127.0.0.1:9"), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(constants, name, value)
        assert resolve(Policy(allow=("*",)), "org/tiny")[0].spec == f"org/tiny@{commit}"
    shard = Path(constants.HF_HUB_CACHE) / "models--org--tiny" / "snapshots" / commit / "tokenizer.json"
    shard.unlink()
    assert refused(Policy(allow=("*",)), "org/tiny").code == "model_not_found"
    assert "not served here" in refused(Policy(allow=("cached",)), "org/tiny").words


@pytest.mark.parametrize("where", ["hub", "directory"])
def test_models_that_cannot_be_served_are_told_by_their_files(hub: Hub, tmp_path: Path, where: str) -> None:
    folder = hub.repos["org/tiny"].folder
    whole = json.loads((folder / "config.json").read_text())

    def told(config: object = whole) -> str:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        if where == "hub":
            error = refused(Policy(allow=("*",)), "org/tiny")
        else:
            error = refused(Policy(models_dir=folder.parent), "tiny")
        assert error.code == "model_unsupported"
        return error.words

    bart = {"model_type": "bart", "architectures": ["BartModel"], "is_encoder_decoder": True}
    assert "a bart model (BartModel) is no causal language model: it has an encoder and a decoder" in told(bart)
    assert "of-tomorrow" in told({"model_type": "of-tomorrow"})
    own = {"model_type": "of-tomorrow", "architectures": ["X"], "auto_map": {"AutoModelForCausalLM": "m.X"}}
    assert "--trust-remote-code" in told(own)
    assert "its config.json is no JSON" in told("{")
    assert "its config.json holds no object" in told("[1]")
    if where == "directory":
        with (folder / WEIGHTS).open("r+b") as file:
            file.truncate(size_of(folder) - 1)
        assert "model.safetensors is cut short" in told()
        (folder / WEIGHTS).write_bytes(b"no tensors at all")
        assert "model.safetensors is no safetensors file" in told()
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "model-1-of-2.safetensors"}}))
        (folder / WEIGHTS).unlink()
        assert "its weights model-1-of-2.safetensors are missing" in told()
        (folder / f"{WEIGHTS}.index.json").unlink()
    else:
        (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
        assert "its weights are pickles" in told()
        assert resolve(Policy(("org/tiny",)), "org/tiny")  # its owner named it
        (folder / "pytorch_model.bin").unlink()
    (folder / "weights.h5").write_bytes(b"?")
    assert "it has no weights called model.safetensors" in told()
    assert "it has weights.h5" in told()
    if where == "hub":
        (folder / "adapter_config.json").write_text("{}")
        (folder / "config.json").unlink()
        assert "it is an adapter without its model" in refused(Policy(allow=("*",)), "org/tiny").words


def test_the_listing_has_what_is_here_and_allowed(hub: Hub, tmp_path: Path) -> None:
    for name in ("org/tiny", "other/tiny"):
        snapshot_download(name)
    hub.repos["org/tiny"].branches["v2"] = hub.repos["org/tiny"].commit
    snapshot_download("org/tiny", revision="v2")
    shutil.copytree(DEMO, tmp_path / "dir" / "mine")
    (tmp_path / "dir" / "mine" / "config.json").write_text(json.dumps({"model_type": "t5"}))
    shutil.copytree(DEMO, tmp_path / "dir" / "me" / "mine")
    before = len(hub.requests)

    def ids(policy: Policy) -> list[str]:
        return [one.id for one in listed(policy)]

    assert ids(Policy()) == []
    assert ids(Policy(allow=("cached",))) == ["org/tiny", "org/tiny@v2", "other/tiny"]
    assert ids(Policy(("demo", "far/away"), ("other/*",), tmp_path / "dir")) == [
        *("far/away", "me/mine", "other/tiny", "tokenyard-demo")
    ]
    assert len(hub.requests) == before
    one = listed(Policy(allow=("cached",)))[0]
    assert (one.size, one.cached) == (resolve(Policy(("demo",)), "tokenyard-demo")[0].weight_bytes, True)
    assert time.time() - 600 < one.created <= time.time()
    assert all(resolve(Policy(allow=("cached",)), name) for name in ids(Policy(allow=("cached",))))


@pytest.mark.slow
def test_it_needs_no_torch(hub: Hub) -> None:
    """Look-ups, a download's size, and transformers' tables of architectures, as a front's process has them."""
    snapshot_download("other/tiny")
    program = """
        import asyncio, sys
        from tokenyard.http import main
        from tokenyard.http.catalog.catalog import Catalog, Policy

        async def run():
            catalog = Catalog(Policy(("demo",), ("*",)))
            print([(await catalog.resolve(name)).cached for name in ("tokenyard-demo", "org/tiny", "other/tiny")])
            print([one.id for one in await catalog.listing()])

        asyncio.run(run())
        assert "torch" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, env={**os.environ}, timeout=60
    )
    assert done.stdout.splitlines() == ["[True, False, True]", "['other/tiny', 'tokenyard-demo']"], done.stderr
