"""How a model's hidden states become one vector for a text, as sentence-transformers writes it beside a model.

modules.json lists the parts that a text goes through; what is not a transformer, a pooling or a normalization is
refused with words. Must not know of jobs or lanes.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import normalize

from tokenyard.broker.errors import SetupError

MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}
"""sentence-transformers' flags of the modes that are served."""
NEWER_MODES = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
"""Its newer configs have one word under `pooling_mode`."""


class Pooling(NamedTuple):
    """From hidden states to a vector."""

    mode: str
    """mean of all tokens, cls (the first) or last."""
    normalize: bool = True
    """To length 1, as OpenAI's vectors are; a modules.json without that part turns it off."""
    max_length: int | None = None
    """Longest text in tokens, if the model was made for less than its context length."""


def read_pooling(directory: Path, default: str) -> Pooling:
    """What modules.json says; without one, `default` and normalized. Raises SetupError for what is not served."""
    modules = _read(directory, "modules.json")
    if modules is None:
        return Pooling(default)
    mode, normalized = default, False
    for module in modules:
        kind = str(module["type"]).rpartition(".")[2]
        if kind == "Pooling":
            mode = _mode(_read(directory, f"{module['path']}/config.json") or {})
        elif kind == "Normalize":
            normalized = True
        elif kind != "Transformer":
            raise SetupError(f"its embeddings go through a part {kind!r}, which is not served")
    limits = _read(directory, "sentence_bert_config.json") or {}
    return Pooling(mode, normalized, limits.get("max_seq_length"))


def pool(hidden: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One text's hidden states [N, D] to its vector [D] in float32."""
    hidden = hidden.float()
    vector = hidden.mean(dim=0) if pooling.mode == "mean" else hidden[0 if pooling.mode == "cls" else -1]
    return normalize(vector, dim=0) if pooling.normalize else vector


def _mode(config: dict[str, Any]) -> str:
    wanted = [MODES.get(key) for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    if "pooling_mode" in config:
        wanted = [NEWER_MODES.get(config["pooling_mode"])]
    if len(wanted) != 1 or wanted[0] is None:
        raise SetupError("only pooling by mean, cls or last token is served")
    return wanted[0]


def _read(directory: Path, name: str) -> Any:
    """A JSON file of the model; None if it has none of that name."""
    path = directory / name
    return json.loads(path.read_bytes()) if path.is_file() else None
