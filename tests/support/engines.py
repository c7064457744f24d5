"""Tiny random models in real engines, and what their streams gave."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference import Reference
from transformers import AutoConfig, AutoModelForCausalLM

from tokenyard.broker.params import Params
from tokenyard.broker.spec import ModelSpec
from tokenyard.broker.wire import Finish, WorkerJob
from tokenyard.workers.engine import Engine
from tokenyard.workers.model import EngineOptions, LoadedModel, load_model
from tokenyard.workers.outputs import Output

VOCAB = 211
CONTEXT = 256
BLOCK = 16
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {},
    "llama": {},
    "mistral": {"sliding_window": 24},
}
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # so large that greedy streams wander instead of repeating one token
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
LEFT_OUT = object()
"""In place of a value: this architecture's config does not take that field."""


def save_tiny(directory: Path, family: str, **extra: Any) -> Path:
    """A random model of this architecture, as safetensors."""
    torch.manual_seed(0)
    fields = {**SHAPE, **FAMILIES.get(family, {}), **extra}
    config = AutoConfig.for_model(family, **{name: one for name, one in fields.items() if one is not LEFT_OUT})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
    return directory


@dataclass
class Bench:
    """One model, its reference, and engines over it."""

    loaded: LoadedModel
    reference: Reference

    @classmethod
    def load(cls, directory: Path, **options: Any) -> "Bench":
        loaded = load_model(ModelSpec(str(directory)), "cpu", "float32", EngineOptions(block_size=BLOCK, **options))
        return cls(loaded, Reference(directory))

    def engine(self, num_blocks: int = 400, **options: Any) -> Engine:
        card = self.loaded.card._replace(pool_tokens=num_blocks * BLOCK)
        return Engine(replace(self.loaded, num_blocks=num_blocks, card=card), EngineOptions(**options))


@dataclass
class Stream:
    """What one job gave."""

    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    cached_tokens: int | None = None
    logprobs: list[Any] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    """The engine step in which each token came."""


Streams = dict[WorkerJob, Stream]


def prompt_of(length: int, salt: int = 0) -> list[int]:
    """A prompt without a pattern."""
    return np.random.default_rng(1000 * salt + length).integers(0, VOCAB, length).tolist()


def job_of(number: int, attempt: int = 1, front: bytes = b"front-01") -> WorkerJob:
    return WorkerJob(front, number, attempt)


def greedy(count: int, **more: Any) -> Params:
    return Params(max_tokens=count, temperature=0.0, **more)


def step(
    engine: Engine, streams: Streams, held: tuple[bytes, ...] = (), first_index: int = 0, may_break: bool = False
) -> None:
    """One step; each stream must go on where it was, and nothing follows its end."""
    take(engine, engine.step(held), streams, first_index, may_break)


def take(
    engine: Engine, outputs: list[Output], streams: Streams, first_index: int = 0, may_break: bool = False
) -> None:
    """What an engine has just told."""
    for key, delta in outputs:
        if key not in streams:
            streams[key] = Stream(cached_tokens=delta.extra["cached_tokens"])
        else:
            assert "cached_tokens" not in delta.extra
        stream = streams[key]
        assert stream.finish is None
        assert delta.first_index == first_index + len(stream.ids)
        assert (delta.job, delta.attempt) == (key.job, key.attempt)
        stream.ids += delta.token_ids
        stream.logprobs += delta.extra.get("logprobs", [])
        stream.steps += [engine.num_steps] * len(delta.token_ids)
        stream.finish = delta.finish
        assert may_break or stream.finish is None or stream.finish.reason != "error", stream.finish
    engine.check()


def run(engine: Engine, streams: Streams | None = None, first_index: int = 0) -> Streams:
    """Step until nothing is left."""
    streams = {} if streams is None else streams
    for _ in range(5000):
        if not engine.has_work:
            assert engine.load()["free_blocks"] == engine.load()["num_blocks"]
            return streams
        step(engine, streams, first_index=first_index)
    raise AssertionError("the engine does not come to an end")


def go_on_late(engine: Engine, streams: Streams) -> None:
    """A piece of what is left to be done between two steps, as the engine's thread does it."""
    assert engine.late is not None
    take(engine, engine.settle(), streams)
    if not engine.late.go_on():
        engine.late = None


def run_one(engine: Engine, prompt: list[int], params: Params, emitted: list[int] | None = None) -> Stream:
    """One job alone."""
    engine.add(job_of(0), prompt, emitted or [], params)
    return run(engine, first_index=len(emitted or []))[job_of(0)]
