"""A model that is compiled beside its engine, which serves it as it is meanwhile and changes over between two steps.

For models on demand: somebody waits for the first token, and compiling takes seconds from the disk's cache and half a
minute without. What is compiled is a twin that shares all weights.
"""

import copy
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tokenyard.workers.gently import lower_priority
from tokenyard.workers.kernels import FAILURES
from tokenyard.workers.selftest import first_line

log = logging.getLogger(__name__)

HEAD_START_S = 2.0
"""Whoever asked for the model gets the first tokens before the compiler takes the interpreter's time."""


class LateCompile(threading.Thread):
    """Compiles once; `install` puts the result in its place. A failure leaves the model as it was, with a word."""

    def __init__(self, model: PreTrainedModel, compiling: Callable[[PreTrainedModel], str]) -> None:
        """`compiling` changes a model in place and says why that must not be used, if so."""
        super().__init__(name="compiler", daemon=True)
        self._model = model
        self._compiling = compiling
        self._num_threads = torch.get_num_threads()
        self._twin: PreTrainedModel | None = None
        self.is_over = False
        """Nothing more will come of it, or `install` has what there is."""

    def run(self) -> None:
        time.sleep(HEAD_START_S)
        lower_priority()
        torch.set_num_threads(self._num_threads)  # a thread's own, and compiled code is for one number
        began = time.perf_counter()
        twin = make_twin(self._model)
        try:
            trouble = self._compiling(twin)
        except FAILURES as failure:
            trouble = cause(failure)
        if trouble:
            log.warning("not compiled: %s", trouble)
        else:
            log.info("compiled beside the engine in %.1f s", time.perf_counter() - began)
            self._twin = twin
        self.is_over = True

    def install(self) -> None:
        """Between two steps, in the engine's thread."""
        assert self.is_over
        if self._twin is not None:
            self._model._modules.update(self._twin._modules)
            self._twin = None


def cause(failure: Exception) -> str:
    """What went wrong; torch.compile's own exceptions say only where."""
    return first_line(getattr(failure, "inner_exception", failure))


def make_twin(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with the same weights, whose body, layers and head can be replaced without touching the first."""
    twin: PreTrainedModel = _shallow(model)
    body = _shallow(model.base_model)
    for name, child in body._modules.items():
        if isinstance(child, nn.ModuleList):
            body._modules[name] = nn.ModuleList(list(child))
    setattr(twin, model.base_model_prefix, body)
    return twin


def _shallow(module: Any) -> Any:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
