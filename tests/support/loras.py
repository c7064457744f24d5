"""LoRA adapters as peft makes and merges them, and engines that serve them."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from engines import Bench
from peft import LoraConfig, PeftModel, get_peft_model
from reference import Reference
from transformers import AutoModelForCausalLM

from tokenyard.broker.wire import AdapterKey
from tokenyard.workers.adapter_files import read_adapter
from tokenyard.workers.engine import Engine
from tokenyard.workers.rack import Rack


def save_lora(model: Path, directory: Path, seed: int = 1, merged: bool = True, **config: Any) -> Path:
    """A random adapter of a saved model in `directory`, and the model that peft merges of both in `merged` below it."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    chosen = {"target_modules": "all-linear", "r": 4, "lora_alpha": 8, "init_lora_weights": False, **config}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # peft asks transformers for what that has renamed, and guesses at GPT-2's layers
        adapted: Any = get_peft_model(base, LoraConfig(**chosen))
        adapted.save_pretrained(directory)
        if merged:
            adapted.merge_and_unload().save_pretrained(directory / "merged")
    return directory


def with_lora(base: Any, directory: Path) -> Any:
    """A loaded model as peft adapts it, whatever kinds of layers it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        return PeftModel.from_pretrained(base, str(directory))


@dataclass(frozen=True)
class Lora:
    """An adapter, and the merged model as its reference."""

    key: AdapterKey
    directory: Path
    reference: Reference

    @classmethod
    def make(cls, name: str, model: Path, directory: Path, seed: int = 1, **config: Any) -> "Lora":
        save_lora(model, directory, seed, **config)
        return cls(AdapterKey(name, f"v{seed}"), directory, Reference(directory / "merged"))

    def into(self, engine: Engine) -> AdapterKey:
        """Have an engine hold it."""
        hold(engine, self.key, self.directory)
        return self.key


def hold(engine: Engine, key: AdapterKey, directory: Path) -> None:
    rack = rack_of(engine)
    engine.adapters.hold(key, read_adapter(str(directory), rack.sizes, rack.rank, rack.dtype).products)


def rack_of(engine: Engine) -> Rack:
    assert engine.model.rack is not None
    return engine.model.rack


def directory_of(bench: Bench) -> Path:
    return Path(bench.loaded.card.source)
