"""Which lane serves a model, decided at load by self-test, and what may be changed of it without changing its logits.

Both are remembered on disk for the same model on the same code: somebody may wait for its first token.
A paged model keeps keys and values of whole layers and leads all attention through ours; all others are run by their
own forward and cache on the plain lane, if that gives their own logits; what fails both is refused with words.
"""

import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from tokenyard.broker.config import cache_dir
from tokenyard.broker.errors import SetupError
from tokenyard.workers import attention
from tokenyard.workers.files import digest
from tokenyard.workers.kv import LayerShape
from tokenyard.workers.plain import WAYS, Prefill, Way
from tokenyard.workers.selftest import NO_FOOTPRINT, Footprint, paged_selftest, plain_selftest

log = logging.getLogger(__name__)

PAGED_LAYERS = {"full_attention", "sliding_attention"}
"""Layer types that our attention function serves; transformers names others (linear, chunked, ...) in the config."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one model is served."""

    lane: str
    """paged or plain."""
    shapes: list[LayerShape] = field(default_factory=list)
    """Paged: what each layer keeps of a token."""
    way: Way = WAYS[0]
    """Plain: how it is run."""
    footprint: Footprint = NO_FOOTPRINT
    """Plain: what a sequence keeps."""

    @property
    def whole_prompts(self) -> bool:
        return self.way.prefill is not Prefill.CHUNKS

    def token_bytes(self, dtype: torch.dtype) -> int:
        """KV memory that one token takes."""
        return self.footprint.token_bytes + sum(shape.num_elements for shape in self.shapes) * dtype.itemsize


def decide(model: PreTrainedModel, commit: str, context_length: int, block_size: int) -> Verdict:
    """The lane of a loaded model, which is left set to that lane's attention. Raises SetupError if none fits."""
    path = _path(model, commit, context_length, block_size)
    verdict = _recall(path)
    if verdict is None:
        verdict = _test(model, context_length, block_size)
        _remember(path, asdict(verdict))
    elif verdict.lane == "paged":
        model.set_attn_implementation(attention.NAME)
    if verdict.lane == "plain":
        log.warning("%s is served on the plain lane: its sequences share no forward", type(model).__name__)
    return verdict


class Tried:
    """Names of changes after which a model gave the logits that it gave before (tuning.py)."""

    def __init__(self, model: PreTrainedModel, commit: str, block_size: int) -> None:
        """Of a model on its lane."""
        processor = torch.backends.cpu.get_cpu_capability() if model.device.type == "cpu" else ""
        self._path = _path(model, f"{commit} {processor}", 0, block_size)
        try:
            names = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            names = []
        self._names = {one for one in names if isinstance(one, str)} if isinstance(names, list) else set()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        if name not in self._names:
            self._names.add(name)
            _remember(self._path, sorted(self._names))


def _test(model: PreTrainedModel, context_length: int, block_size: int) -> Verdict:
    own_attention = model.config._attn_implementation
    config = model.config.get_text_config(decoder=True)
    try:
        _refuse_unpaged(config, context_length)
        return Verdict("paged", shapes=paged_selftest(model, block_size))
    except SetupError as failure:
        log.info("not on the paged lane: %s", failure)
        unpaged = failure
    model.set_attn_implementation(own_attention)
    try:
        way, footprint = plain_selftest(model, may_chunk=_turning_length(config, context_length) is None)
    except SetupError as failure:
        raise SetupError(f"{failure}; and {unpaged}: it cannot be served") from failure
    log.info("plain lane: prompts are taken %s, %s", way.prefill, footprint)
    return Verdict("plain", way=way, footprint=footprint)


def _refuse_unpaged(config: PreTrainedConfig, context_length: int) -> None:
    """Raise SetupError where a short test could not tell, as what differs begins to matter after its tokens."""
    types = set(getattr(config, "layer_types", None) or []) - PAGED_LAYERS
    chunk_size = getattr(config, "attention_chunk_size", None) or 0
    if context_length < chunk_size:
        types.discard("chunked_attention")  # Llama 4: one chunk is all there is, and its query scale still 1
    if types:
        hint = f"; up to --max-model-len {chunk_size - 1} they would be" if types == {"chunked_attention"} else ""
        raise SetupError(f"layers of type {', '.join(sorted(types))} are not for paged attention{hint}")
    if length := _turning_length(config, context_length):
        raise SetupError(
            f"longrope turns all of a batch by its longest; with --max-model-len {length} it would be paged"
        )


def _turning_length(config: PreTrainedConfig, context_length: int) -> int | None:
    """The length beyond which longrope turns all positions by other angles, if sequences can get there."""
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings")
    return original if rope.get("rope_type") == "longrope" and original and context_length > original else None


def _path(model: PreTrainedModel, commit: str, context_length: int, block_size: int) -> Path:
    """Named by all that the verdict depends on, these very files included."""
    parts = (
        *(commit, model.dtype, model.device.type, model.config._attn_implementation, context_length, block_size),
        *(torch.__version__, transformers.__version__, digest(Path(__file__).parent)),
        getattr(model.config, "quantization_config", None),
    )
    name = blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()
    return cache_dir() / "verdicts" / f"{name}.json"


def _recall(path: Path) -> Verdict | None:
    """None where nothing readable is there: then it is tested again."""
    try:
        return _parse(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _parse(value: Any) -> Verdict:
    """Raises ValueError, TypeError or KeyError for anything that _remember would not have written."""
    prefill, own_cache, positions = value["way"]
    verdict = Verdict(
        value["lane"],
        [LayerShape(*map(_whole, shape)) for shape in value["shapes"]],
        Way(Prefill(prefill), bool(own_cache), bool(positions)),
        Footprint(*map(_whole, value["footprint"])),
    )
    if verdict.lane not in ("paged", "plain") or bool(verdict.shapes) != (verdict.lane == "paged"):
        raise ValueError("no verdict")
    return verdict


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _remember(path: Path, value: Any) -> None:
    """Whole or not at all: another worker may read or write the same file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(value, file)
        os.replace(file.name, path)
    except OSError as error:
        log.info("what was found out of a model is not remembered: %s", error)
