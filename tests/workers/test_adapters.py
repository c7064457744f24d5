"""Sequences with an adapter are the merged model's, whatever runs beside them; peft makes adapters and merges them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import BLOCK, Bench, Stream, Streams, go_on_late, greedy, job_of, prompt_of, run, save_tiny, step
from loras import Lora, directory_of, hold, rack_of
from reference import Reference
from tape import record

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import PLAIN, AdapterKey
from tokenyard.workers import speculation, tuning
from tokenyard.workers.engine import Engine
from tokenyard.workers.graph_lane import GraphLane
from tokenyard.workers.model import EngineOptions
from tokenyard.workers.paged import PagedLane
from tokenyard.workers.rack import Adapted, Masked
from tokenyard.workers.static_step import gathered_decode

CONFIGS: dict[str, dict[str, Any]] = {
    "some": {"target_modules": ["q_proj", "v_proj", "down_proj"], "r": 3, "lora_alpha": 5},
    "regex": {"target_modules": r".*\.(0|1)\.mlp\.(gate|up)_proj", "use_rslora": True},
    "patterns": {"rank_pattern": {"o_proj": 2, "^model.layers.1.mlp.up_proj": 7}, "alpha_pattern": {"q_proj": 3}},
}
"""Three adapters of one model."""


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.load(save_tiny(tmp_path_factory.mktemp("base"), "llama"), max_loras=3, max_lora_rank=8)


@pytest.fixture(scope="module")
def loras(adapted: Bench, tmp_path_factory: pytest.TempPathFactory) -> list[Lora]:
    folder = tmp_path_factory.mktemp("loras")
    return [
        Lora.make(name, directory_of(adapted), folder / name, seed, **config)
        for seed, (name, config) in enumerate(CONFIGS.items(), 1)
    ]


def mixed(number: int) -> Params:
    return Params(40, temperature=(0.0, 0.8)[number % 2], seed=number, repetition_penalty=(1.0, 1.2)[number // 2 % 2])


def check_all(bench: Bench, loras: list[Lora], engine: Engine, num_jobs: int = 12) -> None:
    """Sequences with each adapter and with none, that come one after another, are each their own reference's."""
    sides: list[tuple[AdapterKey, Reference]] = [(PLAIN, bench.reference)]
    sides += [(lora.into(engine), lora.reference) for lora in loras]
    streams: Streams = {}
    # long ones before short ones, too: a step packs decodes by their length
    jobs = {number: (prompt_of(5 + 7 * (5 * number % 12)), mixed(number)) for number in range(num_jobs)}
    for number, (prompt, params) in jobs.items():
        engine.add(job_of(number), prompt, [], params, sides[number % len(sides)][0])
        for _ in range(3):
            step(engine, streams)
    run(engine, streams)
    for number, (prompt, params) in jobs.items():
        assert len(streams[job_of(number)].ids) == params.max_tokens
        sides[number % len(sides)][1].check(prompt, streams[job_of(number)].ids, params)
    for lora in loras:
        engine.adapters.retire(lora.key)
    engine.check()


def test_adapters_and_none_in_one_batch(adapted: Bench, loras: list[Lora]) -> None:
    check_all(adapted, loras, adapted.engine())


def test_preempted_and_resumed_sequences_keep_their_adapter(adapted: Bench, loras: list[Lora]) -> None:
    engine = adapted.engine(num_blocks=20)
    check_all(adapted, loras, engine)
    assert engine.load()["preempted"] > 1
    lora = loras[0]
    prompt, params = prompt_of(20), mixed(1)
    engine.add(job_of(0), prompt, [], params, lora.into(engine))
    whole = run(engine)[job_of(0)].ids
    engine.add(job_of(1), prompt, whole[:15], params, lora.key)
    (deltas,) = [engine.step()]
    assert deltas[0].delta.extra["adapter_version"] == lora.key.version
    rest = run(engine, {job_of(1): Stream(ids=whole[:15] + deltas[0].delta.token_ids)})
    assert rest[job_of(1)].ids == whole


@pytest.mark.parametrize("family", ["qwen3", "mistral", "gpt2", "phi3", "gemma2", "mamba"])
def test_other_models(family: str, tmp_path: Path) -> None:
    """Merged products, products that are one in the model's own code, GPT-2's turned weights, and the plain lane."""
    bench = Bench.load(save_tiny(tmp_path / "base", family), max_loras=1)
    assert bench.loaded.card.lane == ("plain" if family == "mamba" else "paged")
    # Mamba's own code reads the weight of dt_proj, and passes the layer by
    config = {"target_modules": ["in_proj", "x_proj"]} if family == "mamba" else {}
    check_all(bench, [Lora.make("one", tmp_path / "base", tmp_path / "one", **config)], bench.engine(), num_jobs=4)


def test_a_layer_that_is_read_as_well_as_called_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What code does with a weight by itself would not be adapted."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    call = LlamaMLP.forward

    def read_and_call(self: Any, x: torch.Tensor) -> torch.Tensor:
        return call(self, x.to(self.up_proj.weight.dtype))

    monkeypatch.setattr(LlamaMLP, "forward", read_and_call)
    rack = rack_of(Bench.load(save_tiny(tmp_path, "llama"), max_loras=1, eager=True).engine())
    assert "model.layers.0.mlp.gate_proj" in rack.places
    assert "model.layers.0.mlp.up_proj" not in rack.places


@pytest.mark.parametrize("eager", [False, True])
def test_without_adapters_the_model_stays_as_it_is(eager: bool, tmp_path: Path) -> None:
    bench = Bench.load(save_tiny(tmp_path, "llama"), eager=eager)
    assert bench.loaded.rack is None
    assert not any(isinstance(one, Adapted) for one in bench.loaded.model.modules())
    with pytest.raises(TokenyardError, match="'x' of this version is not loaded in this worker"):
        bench.engine().add(job_of(0), prompt_of(5), [], greedy(4), AdapterKey("x", "v1"))


@pytest.mark.parametrize("way", [{"eager": True}, {"compile": False}, {"compile": True}], ids=str)
def test_all_ways_of_making_a_model_quick(way: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if way.get("compile") and tuning.find_compiler() is None:
        pytest.skip("nothing is compiled without a compiler")
    monkeypatch.setattr(tuning, "LARGE_BYTES", 0)
    torch._dynamo.reset()
    bench = Bench.load(save_tiny(tmp_path / "base", "qwen3"), max_loras=1, **way)
    check_all(bench, [Lora.make("one", tmp_path / "base", tmp_path / "one")], bench.engine(), num_jobs=6)


# Blocks.


def cached(engine: Engine, prompt: list[int], adapter: AdapterKey = PLAIN) -> Stream:
    engine.add(job_of(0), prompt, [], greedy(12), adapter)
    return run(engine)[job_of(0)]


def test_blocks_are_shared_by_sequences_with_one_adapter_only(adapted: Bench, loras: list[Lora]) -> None:
    engine = adapted.engine()
    prompt = prompt_of(3 * BLOCK + 1)
    keys = [PLAIN, *(lora.into(engine) for lora in loras)]
    assert [cached(engine, prompt, key).cached_tokens for key in keys] == [0] * len(keys)
    assert [cached(engine, prompt, key).cached_tokens for key in keys] == [3 * BLOCK] * len(keys)


def test_a_version_finds_no_block_of_the_one_before(adapted: Bench, loras: list[Lora]) -> None:
    """On the same shelf, under the same name."""
    engine = adapted.engine()
    prompt = prompt_of(3 * BLOCK + 1)
    for lora, num_cached in zip((*loras, loras[0]), (0, 0, 0, 3 * BLOCK), strict=True):
        key = AdapterKey("name", lora.key.version)
        hold(engine, key, lora.directory)
        stream = cached(engine, prompt, key)
        assert stream.cached_tokens == num_cached, "only the same files' blocks are good"
        lora.reference.check(prompt, stream.ids, greedy(12))
        engine.adapters.retire(key)


def test_running_sequences_keep_a_version_that_is_replaced(adapted: Bench, loras: list[Lora]) -> None:
    engine = adapted.engine()
    old, new = AdapterKey("name", "v1"), AdapterKey("name", "v2")
    hold(engine, old, loras[0].directory)
    engine.add(job_of(0), prompt_of(20), [], greedy(40), old)
    streams: Streams = {}
    for _ in range(5):
        step(engine, streams)
    hold(engine, new, loras[1].directory)
    engine.adapters.retire(old)
    engine.add(job_of(1), prompt_of(20), [], greedy(40), new)
    run(engine, streams)
    for number, lora in enumerate(loras[:2]):
        lora.reference.check(prompt_of(20), streams[job_of(number)].ids, greedy(40))
    with pytest.raises(TokenyardError, match="not loaded"):
        engine.add(job_of(2), prompt_of(20), [], greedy(40), old)
    engine.adapters.retire(new)
    engine.check()


def test_shelves_are_counted(adapted: Bench, loras: list[Lora]) -> None:
    """Three adapters, and a fourth place that only the next version of one of them may take."""
    engine = adapted.engine()
    for lora in loras:
        lora.into(engine)
        lora.into(engine)  # again: nothing happens
    with pytest.raises(TokenyardError, match="3 adapters are loaded, as many as there may be"):
        hold(engine, AdapterKey("fourth", "v1"), loras[0].directory)
    first = loras[0].key
    engine.add(job_of(0), prompt_of(20), [], greedy(20), first)
    hold(engine, first._replace(version="v2"), loras[1].directory)
    engine.adapters.retire(first)
    with pytest.raises(TokenyardError, match="still being made") as failure:
        hold(engine, first._replace(version="v3"), loras[2].directory)
    assert failure.value.retry_ms
    engine.abort(job_of(0))
    hold(engine, first._replace(version="v3"), loras[2].directory)
    for key in (first._replace(version="v2"), first._replace(version="v3"), *(lora.key for lora in loras[1:])):
        engine.adapters.retire(key)
    engine.check()


# Graphs and guesses.


def graphed(bench: Bench, **options: int) -> tuple[Engine, GraphLane]:
    paged = PagedLane(bench.loaded)
    lane = GraphLane(bench.loaded, paged, 16, [16], gathered_decode, record)
    return Engine(bench.loaded, EngineOptions(max_num_seqs=12, max_batch_tokens=64, **options), lane), lane


def num_replays(lane: GraphLane) -> int:
    """Of the graphs with adapters."""
    return sum(graph.num_replays for graph in lane._adapted.values())  # type: ignore[attr-defined]


def test_graphs_hold_adapters(adapted: Bench, loras: list[Lora]) -> None:
    engine, lane = graphed(adapted)
    before = num_replays(lane)
    check_all(adapted, loras, engine)
    assert num_replays(lane) > before
    for lora in reversed(loras):  # other shelves than those of the recording, and of the last test
        lora.into(engine)
    check_all(adapted, loras[::-1], engine)


def test_a_batch_without_adapters_replays_graphs_without(adapted: Bench, loras: list[Lora]) -> None:
    engine, lane = graphed(adapted)
    loras[0].into(engine)
    engine.add(job_of(0), prompt_of(20), [], greedy(10))
    before = num_replays(lane)
    run(engine)
    assert num_replays(lane) == before


def test_a_graph_that_forgets_adapters_is_found(
    adapted: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Masked, "add", lambda *_: None)
    _, lane = graphed(adapted)
    assert "the next failed: it gives other logits" in caplog.text
    assert not lane.num_graphs


def test_guesses_are_checked_with_the_adapter(
    adapted: Bench, loras: list[Lora], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speculation, "REST", 0)
    for engine in (adapted.engine(num_drafts=3), graphed(adapted, num_drafts=3)[0]):
        key = loras[0].into(engine)
        params = Params(60, seed=3, logit_bias=dict.fromkeys(range(4), 30.0))
        for number in range(3):
            engine.add(job_of(number), prompt_of(12, salt=number) * 4, [], params, (key, PLAIN, key)[number])
        streams = run(engine)
        for number in range(3):
            reference = (loras[0].reference, adapted.reference, loras[0].reference)[number]
            reference.check(prompt_of(12, salt=number) * 4, streams[job_of(number)].ids, params)
        assert engine.load()["confirmed"] > 20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_real_graphs_hold_adapters(adapted: Bench, loras: list[Lora]) -> None:
    from tokenyard.broker.spec import ModelSpec
    from tokenyard.workers.model import load_model

    options = EngineOptions(block_size=BLOCK, kv_memory="64MiB", max_loras=3, max_lora_rank=8)
    bench = Bench(load_model(ModelSpec(str(directory_of(adapted))), "cuda", "float32", options), adapted.reference)
    for late in (False, True):
        engine = Engine(bench.loaded, options._replace(late=late))
        assert isinstance(engine._lane, GraphLane)
        while engine.late is not None:
            check_all(bench, loras, engine, num_jobs=4)
            for _ in range(10):
                go_on_late(engine, {})
                if engine.late is None:
                    break
        assert engine._lane._adapted
        check_all(bench, loras, engine)


# Other kinds of jobs.


def test_scores_and_vectors_are_the_merged_models(adapted: Bench, loras: list[Lora]) -> None:
    engine = adapted.engine()
    sides = [(PLAIN, adapted.reference), *((lora.into(engine), lora.reference) for lora in loras)]
    texts = [prompt_of(9 + 4 * number) for number in range(len(sides))]
    for number, (key, _) in enumerate(sides):
        engine.score(job_of(number), texts[number], Params(0, score_ids=[7, 9], prompt_logprobs=0), key)
        engine.embed(job_of(100 + number), texts[number], key)
    extras: dict[int, dict[str, Any]] = {}
    while engine.has_work:
        for key, delta in engine.step():
            extras[key.job] = extras.get(key.job, {}) | delta.extra
        engine.check()
    for number, (_, reference) in enumerate(sides):
        with torch.inference_mode():
            output = reference.model(input_ids=torch.tensor([texts[number]]), output_hidden_states=True)
        logprobs = output.logits[0].log_softmax(-1)
        assert extras[number]["scores"] == pytest.approx(logprobs[-1, [7, 9]].tolist(), abs=1e-3)
        chosen = np.frombuffer(extras[number]["prompt_logprobs"][1], "<f4")
        expected = logprobs[:-1].gather(1, torch.tensor(texts[number][1:]).unsqueeze(1)).squeeze(1)
        assert chosen == pytest.approx(expected.numpy(), abs=1e-3)
        vector = output.hidden_states[-1][0, -1]
        found = np.frombuffer(extras[100 + number]["embedding"], "<f4")
        assert found == pytest.approx((vector / vector.norm()).numpy(), abs=1e-4)
        assert extras[number].get("adapter_version", "") == sides[number][0].version


def test_aborted_jobs_of_all_kinds_let_go_of_their_adapter(adapted: Bench, loras: list[Lora]) -> None:
    engine = adapted.engine()
    key = loras[0].into(engine)
    engine.embed(job_of(0), prompt_of(5), key)
    engine.score(job_of(1), prompt_of(5), Params(0, score_ids=[1]), key)
    engine.add(job_of(2), prompt_of(5), [], greedy(5), key)
    engine.adapters.retire(key)
    for number in range(3):
        engine.abort(job_of(number))
    with pytest.raises(TokenyardError, match="not loaded"):
        engine.adapters.take(key)
