"""Embeddings: the vectors are those of transformers' own forward, alone, together and beside running streams."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import CONTEXT, VOCAB, Bench, greedy, job_of, prompt_of, save_tiny
from transformers import AutoConfig, AutoModel, PreTrainedModel

from tokenyard.broker.codec import pack_ids
from tokenyard.broker.errors import SetupError, TokenyardError
from tokenyard.broker.params import Params
from tokenyard.broker.spec import ModelSpec
from tokenyard.broker.wire import Finish
from tokenyard.workers.desk import Add
from tokenyard.workers.engine import Engine
from tokenyard.workers.engine_thread import EngineThread
from tokenyard.workers.model import EngineOptions, load_model

LENGTHS = (1, 30, 17, 60)
ENCODER = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def save_encoder(directory: Path, family: str, **extra: Any) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(family, **ENCODER, **extra)).save_pretrained(directory)  # type: ignore[no-untyped-call]
    return directory


def save_sentence_transformer(directory: Path, pooling: dict[str, Any], *more: str) -> None:
    """What sentence-transformers writes beside a model."""
    parts = [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        *((f"{index}_{kind}", kind) for index, kind in enumerate(more, 2)),
    ]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in parts]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def make_engine(directory: Path, **options: Any) -> Engine:
    engine_options = EngineOptions(**options)
    return Engine(load_model(ModelSpec(str(directory)), "cpu", "float32", engine_options), engine_options)


def embed(engine: Engine, texts: list[list[int]]) -> list[np.ndarray]:
    """Every text's vector; exactly one output each."""
    for number, ids in enumerate(texts):
        engine.embed(job_of(number), ids)
    vectors = {}
    while engine.has_work:
        for key, delta in engine.step():
            assert key not in vectors
            assert (delta.first_index, delta.token_ids, delta.finish) == (0, [], Finish("stop"))
            assert delta.extra["cached_tokens"] == 0
            vectors[key] = np.frombuffer(delta.extra["embedding"], "<f4")
    return [vectors[job_of(number)] for number in range(len(texts))]


@torch.inference_mode()
def hidden_of(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """[N, D], one text alone through transformers."""
    hidden: torch.Tensor = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return hidden


def unit(vector: torch.Tensor) -> np.ndarray:
    return (vector / vector.norm()).numpy()


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("qwen3", {}),
        ("gpt2", {}),
        ("opt", {"word_embed_proj_dim": 32, "ffn_dim": 64}),
        ("gemma2", {"sliding_window": 24, "query_pre_attn_scalar": 8}),
        ("bloom", {}),
        ("mamba", {}),
    ],
)
def test_a_causal_model_gives_its_last_token(family: str, extra: dict[str, Any], tmp_path: Path) -> None:
    bench = Bench.load(save_tiny(tmp_path, family, **extra))
    engine = bench.engine(max_num_seqs=4, max_batch_tokens=64)
    texts = [prompt_of(length) for length in LENGTHS]
    for ids, vector in zip(texts, embed(engine, texts), strict=True):
        wanted = unit(hidden_of(bench.reference.model.base_model, ids)[-1])
        np.testing.assert_allclose(vector, wanted, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "mamba"])
@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
def test_a_causal_model_gives_what_its_pooling_says(family: str, mode: str, tmp_path: Path) -> None:
    bench_dir = save_tiny(tmp_path / family, family)
    save_sentence_transformer(bench_dir, {"pooling_mode": mode}, "Normalize")
    model = AutoModel.from_pretrained(bench_dir, attn_implementation="eager").eval()
    texts = [prompt_of(length) for length in LENGTHS]
    for ids, vector in zip(texts, embed(make_engine(bench_dir, max_batch_tokens=64), texts), strict=True):
        hidden = hidden_of(model, ids)
        wanted = {"mean": hidden.mean(dim=0), "cls": hidden[0], "lasttoken": hidden[-1]}[mode]
        np.testing.assert_allclose(vector, unit(wanted), atol=1e-5)


def test_streams_run_beside(llama: Bench) -> None:
    engine = llama.engine(max_num_seqs=4, max_batch_tokens=32)
    engine.add(job_of(50), prompt_of(40), [], greedy(8))
    alone = embed(llama.engine(), [prompt_of(20)])[0]
    engine.embed(job_of(51), prompt_of(20))
    outputs = [output for _ in range(5) for output in engine.step()]
    (found,) = [delta for key, delta in outputs if key == job_of(51)]
    np.testing.assert_allclose(np.frombuffer(found.extra["embedding"], "<f4"), alone, atol=1e-5)
    assert [key for key, delta in outputs if delta.token_ids], "the stream stood still"
    while engine.has_work:
        engine.step()
    engine.check()


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_an_encoder_gives_the_mean(family: str, tmp_path: Path) -> None:
    extra = {"pad_token_id": 1} if family != "bert" else {}
    engine = make_engine(save_encoder(tmp_path / family, family, **extra), max_batch_tokens=64)
    card = engine.model.card
    assert (card.lane, card.context_length) == ("encoder", 62 if family == "roberta" else 64)
    model = AutoModel.from_pretrained(tmp_path / family, attn_implementation="eager").eval()
    texts = [[one + 2 for one in prompt_of(length) if one < VOCAB - 2] for length in LENGTHS]
    for ids, vector in zip(texts, embed(engine, texts), strict=True):
        np.testing.assert_allclose(vector, unit(hidden_of(model, ids).mean(dim=0)), atol=1e-5)


def test_sentence_transformers_say_how(tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "bert", "bert")
    model = AutoModel.from_pretrained(directory).eval()
    ids = prompt_of(20)
    save_sentence_transformer(directory, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    np.testing.assert_allclose(embed(make_engine(directory), [ids])[0], hidden_of(model, ids)[0].numpy(), atol=1e-5)
    save_sentence_transformer(directory, {"pooling_mode": "lasttoken"}, "Normalize")
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))
    engine = make_engine(directory)
    assert engine.model.card.context_length == 48
    np.testing.assert_allclose(embed(engine, [ids])[0], unit(hidden_of(model, ids)[-1]), atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "more", "words"),
    [
        ({"pooling_mode_max_tokens": True}, [], "only pooling by"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, [], "only pooling by"),
        ({"pooling_mode_cls_token": True}, ["Dense"], "a part 'Dense'"),
    ],
)
def test_other_parts_are_refused(pooling: dict[str, Any], more: list[str], words: str, tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "bert", "bert")
    save_sentence_transformer(directory, pooling, *more)
    with pytest.raises(SetupError, match=words):
        make_engine(directory)


def test_words_for_what_can_never_be_embedded(llama: Bench, tmp_path: Path) -> None:
    engine = llama.engine()
    for ids, code in (
        ([], "invalid_value"),
        ([VOCAB], "invalid_value"),
        ([1] * (CONTEXT + 1), "context_length_exceeded"),
    ):
        with pytest.raises(TokenyardError) as failure:
            engine.embed(job_of(0), ids)
        assert (failure.value.code, failure.value.param) == (code, "input")
    encoder = make_engine(save_encoder(tmp_path / "bert", "bert"))
    with pytest.raises(TokenyardError, match="embeddings only"):
        encoder.add(job_of(0), [1, 2], [], greedy(1))
    assert not engine.has_work
    assert not encoder.has_work


def test_texts_can_be_aborted_and_held(llama: Bench) -> None:
    engine = llama.engine()
    for number in range(3):
        engine.embed(job_of(number), prompt_of(5))
    engine.embed(job_of(3, front=b"front-02"), prompt_of(5))
    engine.abort(job_of(1))
    assert [key for key, _ in engine.step(held=[b"front-02"])] == [job_of(0), job_of(2)]
    assert [key for key, _ in engine.step()] == [job_of(3, front=b"front-02")]
    assert not engine.has_work


def test_the_engine_thread_knows_the_kinds(llama: Bench) -> None:
    thread = EngineThread(lambda _: (llama.engine(), llama.loaded.card))
    thread.start()
    for number, kind in enumerate(("embed", "score", "generate", "dream")):
        thread.put(Add(job_of(number), pack_ids(prompt_of(9)), b"", Params(max_tokens=1), kind))
    found = {}
    until = time.monotonic() + 60
    while len(found) < 4 and time.monotonic() < until:
        if thread.results:
            found |= {key: delta for key, delta in thread.results.popleft() if delta.finish}
        time.sleep(0.001)
    assert len(found[job_of(0)].extra["embedding"]) == 32 * 4
    assert found[job_of(1)].finish == Finish("length")
    refused = found[job_of(3)].finish
    assert refused is not None
    assert (refused.reason, refused.code) == ("error", "invalid_value")
    assert len(found[job_of(2)].token_ids) == 1
