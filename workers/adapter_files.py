"""Reads a LoRA adapter as peft writes it: a directory, or its like on the Hub, of a config and safetensors.

What is more than LoRA of linear layers is refused by the name of its key, never left out. Must not know of shelves or
sequences. Slow (a disk, the Hub), so it runs beside the engine's thread.
"""

import json
import logging
import math
import re
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is documented there
from safetensors import SafetensorError
from safetensors.torch import load

from tokenyard.broker import hub
from tokenyard.broker.errors import TokenyardError, first_line
from tokenyard.broker.spec import local_directory
from tokenyard.workers.rack import LayerSize, Product

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before the names that the model's own code has."""
TENSOR = re.compile(r"(?P<layer>.+)\.lora_(?P<kind>[AB])\.weight")
READ = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "peft_type", "init_lora_weights"}
"""Keys that mean something here; target_modules and its like do not, as the tensors' names say what they chose."""
WITHOUT_EFFECT = {
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_version", "inference_mode"),
    *("lora_dropout", "fan_in_fan_out", "runtime_config", "ensure_weight_tying", "qalora_group_size"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_config", "megatron_core"),
}
"""Keys that say how it was trained, or where it came from. What changes the base model stands in init_lora_weights."""
INITIALS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base model as it was: others take from it what the adapter gives back."""
REASONS = {
    "use_dora": "DoRA scales the base model's weights",
    "modules_to_save": "it brings whole modules",
    "trainable_token_indices": "it brings tokens of its own",
    "target_parameters": "it changes parameters that are no linear layers, such as experts",
    "layer_replication": "it makes another model of more layers",
    "alora_invocation_tokens": "it begins to count within a prompt",
    "lora_bias": "only the two matrices are computed",
}
"""Why, for those that people meet."""


class AdapterFiles(NamedTuple):
    """What was read."""

    version: str
    """A digest of both files."""
    products: dict[str, Product]
    """By the name that the model's own code gives the layer."""


def read_adapter(source: str, layers: Mapping[str, LayerSize], max_rank: int, dtype: torch.dtype) -> AdapterFiles:
    """Read and check. Raises TokenyardError with words for the user."""
    directory = _directory(source)
    paths = [directory / CONFIG, directory / WEIGHTS]
    for path in paths:
        if not path.is_file():
            hint = "; adapter_model.bin is not read: save it as safetensors" if path.name == WEIGHTS else ""
            raise TokenyardError("invalid_value", f"{source} has no {path.name}{hint}", "lora_path")
    try:
        contents = [path.read_bytes() for path in paths]  # once: what is loaded is what the version is of
        products = _products(json.loads(contents[0]), load(contents[1]), layers, max_rank, dtype)
    except (ValueError, OSError, SafetensorError) as error:
        raise TokenyardError("invalid_value", f"{source} cannot be read: {first_line(error)}", "lora_path") from error
    except _Unfit as failure:
        raise TokenyardError("invalid_value", f"{source}: {failure}", "lora_path") from failure
    digests = b"".join(blake2b(content, digest_size=20).digest() for content in contents)
    return AdapterFiles(blake2b(digests, digest_size=20).hexdigest(), products)


class _Unfit(Exception):
    """Why an adapter cannot be served."""


def _directory(source: str) -> Path:
    """Where its files lie; from the Hub they are fetched. Raises TokenyardError."""
    if found := local_directory(source):
        return found
    if Path(source).expanduser().is_absolute() or source.startswith("."):
        raise TokenyardError("model_not_found", f"there is no directory {source}", "lora_path")
    name, _, revision = source.partition("@")
    try:
        validate_repo_id(name)
        return _fetch(name, revision or None)
    except HFValidationError as error:
        raise TokenyardError("model_not_found", f"there is no adapter {source}", "lora_path") from error
    except TokenyardError as error:
        raise TokenyardError(error.code, error.words, "lora_path", error.retry_ms) from error
    except (hub.TransportError, OSError) as error:
        told = hub.explain(error, name, revision or None)
        raise TokenyardError(told.code, told.words, "lora_path", told.retry_ms) from error


def _fetch(name: str, revision: str | None) -> Path:
    """Have its files in the cache, which knows a branch's new commit once they are there, and not before."""
    try:
        commit = hub.look_up(name, revision).commit
    except TokenyardError as error:
        cached = hub.cached_commit(name, revision)
        if error.code == "model_gated" or cached is None or not _is_whole(hub.snapshot_dir(name, cached)):
            raise
        log.warning("the adapter %s is taken from the local cache: %s", name, error.words)
        return hub.snapshot_dir(name, cached)
    directory = hub.snapshot_dir(name, commit)
    if not _is_whole(directory):
        snapshot_download(name, revision=commit, allow_patterns=[CONFIG, WEIGHTS])
    hub.keep_commit(name, revision, commit)
    return directory


def _is_whole(directory: Path) -> bool:
    return all((directory / name).is_file() for name in (CONFIG, WEIGHTS))


def _products(
    config: Any, tensors: dict[str, torch.Tensor], layers: Mapping[str, LayerSize], max_rank: int, dtype: torch.dtype
) -> dict[str, Product]:
    if not isinstance(config, dict):
        raise _Unfit(f"{CONFIG} holds no object")
    _refuse_more(config)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = TENSOR.fullmatch(name.removeprefix(PREFIX))
        if match is None:
            raise _Unfit(f"the tensor {name} is no part of a LoRA of linear layers")
        pairs.setdefault(match["layer"], {})[match["kind"]] = tensor
    if not pairs:
        raise _Unfit(f"{WEIGHTS} holds nothing")
    return {name: _product(name, pair, config, layers, max_rank, dtype) for name, pair in pairs.items()}


def _refuse_more(config: dict[str, Any]) -> None:
    """Raise for what would change what is computed, and for keys that nobody knows, where they say something."""
    if config.get("peft_type") != "LORA":
        raise _Unfit(f"peft_type is {config.get('peft_type')!r}: only LORA is served")
    if config.get("bias", "none") != "none":
        raise _Unfit(f"bias is {config['bias']!r}: only 'none' is served")
    initial = config.get("init_lora_weights", True)
    if initial not in INITIALS:
        words = "it needs a base model that was changed with it: save it with path_initial_model_for_weight_conversion"
        raise _Unfit(f"init_lora_weights is {initial!r}: {words}")
    for key, value in config.items():
        if value and key not in READ and key not in WITHOUT_EFFECT:
            reason = REASONS.get(key, "only plain LoRA is served")
            raise _Unfit(f"{key} is set: {reason}")


def _product(
    name: str,
    pair: dict[str, torch.Tensor],
    config: dict[str, Any],
    layers: Mapping[str, LayerSize],
    max_rank: int,
    dtype: torch.dtype,
) -> Product:
    if len(pair) < 2:
        raise _Unfit(f"{name} lacks lora_{'B' if 'A' in pair else 'A'}")
    size = layers.get(name)
    if size is None:
        raise _Unfit(f"the model has no linear layer {name} that could be adapted")
    down, up = pair["A"], pair["B"]
    rank = next(iter(down.shape), 0)
    if down.shape != (rank, size.num_inputs) or up.shape != (size.num_outputs, rank):
        found = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise _Unfit(f"{name} has matrices of {found}; the model's layer is {size.num_outputs} x {size.num_inputs}")
    if rank != _by_pattern(config, "rank_pattern", "r", name):
        raise _Unfit(f"{name} has rank {rank}, which is not what {CONFIG} says")
    if not 0 < rank <= max_rank:
        raise _Unfit(f"{name} has rank {rank}; the server takes 1 to {max_rank} (--max-lora-rank)")
    alpha = _by_pattern(config, "alpha_pattern", "lora_alpha", name)
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    product = Product(down.to(dtype).contiguous(), (up.float() * scale).to(dtype).t().contiguous())
    if not all(bool(one.isfinite().all()) for one in product):
        raise _Unfit(f"{name} has numbers that are not finite")
    return product


def _by_pattern(config: dict[str, Any], patterns: str, otherwise: str, name: str) -> float:
    """The value of the first pattern that this layer's name ends with, as peft chooses it."""
    given = config.get(patterns) or {}
    try:
        value = next((given[one] for one in given if re.fullmatch(rf"(.*\.)?({one})", name)), config.get(otherwise, 8))
    except (re.error, TypeError) as error:
        raise _Unfit(f"{patterns}: {error}") from error
    if not isinstance(value, int | float):
        raise _Unfit(f"{otherwise} of {name} is no number")
    return value
