"""What makes a model quicker while it serves already: for models on demand, whose first token somebody waits for.

On a CPU it is compiled, which takes seconds from the disk's cache and half a minute without: what is compiled, in a
thread of its own, is a twin that shares all weights, and the engine changes over between two steps. On CUDA graphs are
recorded, in the engine's own thread, some at a time between two steps (leisure.py says when).
"""

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator
from math import inf
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from tokenyard.broker.errors import first_line
from tokenyard.workers.gently import lower_priority
from tokenyard.workers.kernels import FAILURES, compile_failures
from tokenyard.workers.leisure import HEAD_START_S, Demand, Leisure

log = logging.getLogger(__name__)


class Late(Protocol):
    """Called by the engine's thread only, between two steps. A failure leaves the model as it is, with a word."""

    def start(self) -> None:
        """The model is ready to serve."""
        ...

    def due_s(self, demand: Demand) -> float:
        """When it wants to go on, by time.monotonic(), if the engine has this to do until then; inf: not yet known."""
        ...

    def go_on(self) -> bool:
        """Do a piece of it, while nothing is in flight; False: that was the last."""
        ...


class LateCapture:
    """Records an engine's graphs, each of which serves from then on."""

    def __init__(self, pieces: Iterator[None], num_graphs: Callable[[], int]) -> None:
        """`pieces`: what records them, and stops between any two pieces of it; `num_graphs`: recorded so far."""
        self._pieces = pieces
        self._num_graphs = num_graphs
        self._leisure: Leisure | None = None
        self._spent_s = 0.0

    def start(self) -> None:
        self._leisure = Leisure(time.monotonic())

    def due_s(self, demand: Demand) -> float:
        assert self._leisure is not None
        return self._leisure.due_s(demand)

    def go_on(self) -> bool:
        began_s = time.monotonic()
        goes_on = self._do_piece()
        ended_s = time.monotonic()
        self._spent_s += ended_s - began_s
        if self._leisure is not None:
            self._leisure.did(began_s, ended_s)
        return goes_on

    def finish(self) -> None:
        """All of it at once, for a model that nobody waits for."""
        while self.go_on():
            pass

    def _do_piece(self) -> bool:
        try:
            with torch.inference_mode():
                next(self._pieces)
        except StopIteration:
            log.info("recorded %d CUDA graphs in %.1f s", self._num_graphs(), self._spent_s)
            return False
        except compile_failures() as failure:
            words = "recorded %d CUDA graphs and no more, other batches run without: the next failed: %s"
            log.warning(words, self._num_graphs(), first_line(failure))
            return False
        return True


class LateCompile(threading.Thread):
    """Compiles once."""

    def __init__(self, model: PreTrainedModel, compiling: Callable[[PreTrainedModel], str]) -> None:
        """`compiling` changes a model in place and says why that must not be used, if so."""
        super().__init__(name="compiler", daemon=True)
        self._model = model
        self._compiling = compiling
        self._num_threads = torch.get_num_threads()
        self._twin: PreTrainedModel | None = None

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

    def due_s(self, demand: Demand) -> float:
        return inf if self.is_alive() else 0.0

    def go_on(self) -> bool:
        """Put what came of it in its place."""
        if self._twin is not None:
            self._model._modules.update(self._twin._modules)
            self._twin = None
        return False


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
