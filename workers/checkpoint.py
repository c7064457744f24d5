"""Reads one model's files by way of transformers: what it is first, then its weights.

What is wrong with them becomes words for the user (failures.py). Weights that a checkpoint lacks are refused:
transformers draws them at random, with a warning. Must not know of lanes, memory or cards.
"""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from functools import cached_property
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from tokenyard.broker.errors import SetupError, first_line
from tokenyard.broker.gguf_file import Header
from tokenyard.broker.gguf_tokenizer import converted
from tokenyard.broker.spec import ModelSpec
from tokenyard.workers.failures import explained
from tokenyard.workers.gguf_reading import open_gguf, quick_reading
from tokenyard.workers.kernels import FAILURES
from tokenyard.workers.sources import find_files, find_source

MAX_NAMES = 4
"""Of weights, in words for people."""
UNUSED = "pooler."
"""Weights of encoders that vectors do not go through; checkpoints that fill in masked words have none."""


class Checkpoint:
    """One model's files, of which the small ones have been read."""

    def __init__(
        self, spec: ModelSpec, trust_remote_code: bool, on_download: Callable[[float], None] = lambda _: None
    ) -> None:
        """`on_download` hears fractions, if files must come from the Hub.

        Raises SetupError for what is not there, or what no lane could ever serve.
        """
        with explained():
            self.source = find_source(spec)
            self.directory, self.commit = find_files(self.source, spec.revision, on_download)
        # the directory, not the Hub's name: transformers would ask the Hub for each file that a model does not have
        self._files: dict[str, Any] = {
            "pretrained_model_name_or_path": str(self.directory),
            "trust_remote_code": trust_remote_code,
        }
        self.header: Header | None = None
        """Of a GGUF file."""
        self._readers: dict[Any, Any] = {}
        """Of that file, until its weights are read."""
        if self.source.file:
            self.header = open_gguf(self.directory / self.source.file)
            self._files["gguf_file"] = self.source.file
        with explained(self.directory), self._reading():
            self.config: PreTrainedConfig = AutoConfig.from_pretrained(**self._files)
        self.text_config = self.config.get_text_config()
        if getattr(self.text_config, "vocab_size", None) is None:
            raise SetupError("it is no model of texts: its config has no vocab_size")
        if not self.is_encoder:
            _refuse_unserved(self.text_config)

    @cached_property
    def is_encoder(self) -> bool:
        """Whether it is a bare body, or one that fills in masked words: it can embed, but not go on."""
        classes = getattr(self.config, "auto_map", None)
        if classes:
            return "AutoModel" in classes and "AutoModelForCausalLM" not in classes
        is_body = self._architecture.endswith(("Model", "ForMaskedLM")) and not self.config.is_encoder_decoder
        return is_body and self._architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()

    def read_weights(self, **how: Any) -> PreTrainedModel:
        """The model; `how`: dtype, quantization and device, as from_pretrained takes them. Raises SetupError."""
        family = AutoModel if self.is_encoder else AutoModelForCausalLM
        if self.header is not None:
            if "quantization_config" in how:
                raise SetupError("quantization does not go with a GGUF file, which is dequantized at load")
            from transformers import GgufConfig

            # a config that is given is not read again, which takes seconds; packed weights need kernels of the Hub's
            how |= {"config": self.config, "quantization_config": GgufConfig(dequantize=True)}
        with explained(self.directory), self._reading():
            loaded: Any = family.from_pretrained(
                output_loading_info=True, ignore_mismatched_sizes=True, **self._files, **how
            )
        model: PreTrainedModel = loaded[0]
        self._readers.clear()
        self._refuse_drawn(model, loaded[1])
        if self.is_encoder:
            _refuse_mute(model)
        return model

    def make_tokenizer(self) -> None:
        """See to it that fronts find the tokenizer of a GGUF file. Raises SetupError."""
        if self.source.file:
            with explained(), self._reading():
                converted(self.source.name, self.commit, self.source.file, apart=False)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Without transformers' tables of weights and bars of progress: what matters in them is told in words."""
        before = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity(logging.ERROR)
        try:
            # the bar of a GGUF file cannot be turned off otherwise
            with quick_reading(self._readers) if self.header else nullcontext(), redirect_stderr(io.StringIO()):
                yield
        finally:
            transformers_logging.set_verbosity(before)

    @property
    def _architecture(self) -> str:
        return (self.config.architectures or [""])[0]

    def _refuse_drawn(self, model: PreTrainedModel, report: dict[str, Any]) -> None:
        """Raise SetupError where weights are not the checkpoint's."""
        other = f", which is a {self._architecture}" if self._architecture not in ("", type(model).__name__) else ""
        what = f"it cannot be loaded as {type(model).__name__}{other}"
        if others := sorted(report["mismatched_keys"]):
            shapes = _listed([f"{name} {list(has)}, not {list(wants)}" for name, has, wants in others])
            raise SetupError(f"{what}: weights have other shapes than its config says: {shapes}")
        own = {name for name, _ in model.named_parameters()}
        missing = sorted(name for name in report["missing_keys"] if name in own)
        if self.is_encoder:
            missing = [name for name in missing if UNUSED not in name]
        if missing:
            raise SetupError(f"{what}: weights are missing: {_listed(missing)}")


def _refuse_unserved(config: PreTrainedConfig) -> None:
    """Raise SetupError for what no lane could ever serve."""
    if getattr(config, "is_encoder_decoder", False) or not getattr(config, "is_causal", True):
        raise SetupError("it is no causal language model")


def _refuse_mute(model: PreTrainedModel) -> None:
    """Raise SetupError for a body that gives no hidden states of a text alone, as one does that wants images, too."""
    ids = torch.zeros(1, 2, dtype=torch.int64, device=model.device)
    try:
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state  # noqa: B018
    except FAILURES as error:
        raise SetupError(f"it makes no vectors of texts: {first_line(error)}") from error


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
