"""Which models this transformers can serve, told from config.json alone.

Its tables of model types lie in a module that imports torch, so they are read from that module's text. A front asks
before anything is downloaded or makes room; the worker has the last word.
"""

import ast
import re
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
BODIES = "MODEL_MAPPING_NAMES"
EMBEDDERS = ("Model", "ForMaskedLM")
"""How the class names end of checkpoints that can only embed: as in workers/checkpoint.py."""


@cache
def table(name: str) -> dict[str, Any]:
    """One of transformers' tables from model type to class names."""
    found = find_spec("transformers")
    assert found is not None
    assert found.origin is not None
    text = (Path(found.origin).parent / "models" / "auto" / "modeling_auto.py").read_text()
    literal = re.search(rf"^{name} = OrderedDict\(\n(.*?)^\)", text, re.MULTILINE | re.DOTALL)
    assert literal is not None, name
    return dict(ast.literal_eval(literal[1].strip()))


def refusal(config: dict[str, Any], trust_remote_code: bool) -> str | None:
    """Why a model of this config.json cannot be served; None: nothing speaks against it."""
    kind, classes = config.get("model_type"), config.get("architectures") or [""]
    if not isinstance(classes, list) or not isinstance(classes[0], str) or not isinstance(kind, str | None):
        return "its config.json is broken: architectures is a list of names, and model_type a name"
    if kind is None:
        return None if classes[0] else "its config.json names neither model_type nor architectures"
    what = f"a {kind} model" + (f" ({classes[0]})" if classes[0] else "")
    if config.get("is_encoder_decoder"):
        return f"{what} is no causal language model: it has an encoder and a decoder"
    if kind in table(CAUSAL):
        return None
    if classes[0].endswith(EMBEDDERS) and kind in table(BODIES):
        return None
    if config.get("auto_map"):
        return None if trust_remote_code else f"{what} brings code of its own, which runs only with --trust-remote-code"
    return f"{what} is no causal language model that transformers {version('transformers')} knows"
