"""A model's layers through torch.compile on CPU: the small operations between the products become a few loops.

One layer is compiled and serves all that are alike, as weights are inputs of the code. What changes with the step or
the layer cannot be one, so attention is an opaque operator, tokenyard::attend, that finds the current step by a number:
the paged pool never meets the compiler. Two versions serve all steps, one for a single token and one for any number
more. Must not know when compiling pays (tuning.py). Importing this takes a second or two: it brings torch's compiler.
"""

import os
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn
from torch._inductor import config as inductor_config
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from tokenyard.broker.config import cache_dir
from tokenyard.workers import attention
from tokenyard.workers.attention import Attends, Flavour
from tokenyard.workers.cpu_linear import CpuLinear

WARM_TOKENS = 16
"""Any number above 1 makes the graph for all of them."""


class Relay:
    """What compiled layers are led to: hands on to the step that is set now, layer by layer."""

    def __init__(self, num_layers: int) -> None:
        self.number = next(_NUMBERS)
        self._num_layers = num_layers
        self._step: Attends | None = None
        self._layer = 0
        _RELAYS[self.number] = self

    def begin(self, step: Attends) -> None:
        """The next forward is this step's."""
        self._step, self._layer = step, 0

    def attend(
        self, _: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, flavour: Flavour
    ) -> torch.Tensor:
        """As a step does. The layer's number is not read: compiled code would hold the first one's for all."""
        result: torch.Tensor = torch.ops.tokenyard.attend(
            query, key, value, flavour.sinks, self.number, flavour.scaling, flavour.window, flavour.softcap
        )
        return result

    def hand_on(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, flavour: Flavour) -> torch.Tensor:
        """Called by the operator, once for each layer in turn."""
        assert self._step is not None
        assert self._layer < self._num_layers
        result = self._step.attend(self._layer, query, key, value, flavour)
        self._layer += 1
        return result


class CompiledLayer(nn.Module):
    """Takes the place of a decoder layer."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self._own = own
        self._compiled: Any = torch.compile(_call, fullgraph=True)
        self.is_warming = True
        """Whether calls may still compile; then the number of tokens, dimension 1, is marked as one that changes."""

    def forward(self, hidden: torch.Tensor, **inputs: Any) -> Any:
        """What the layer itself returns. hidden: [1, T, hidden]."""
        num_tokens = hidden.shape[1]
        if self.is_warming and num_tokens > 1:
            for tensor in tree_leaves((hidden, inputs)):
                if isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and tensor.shape[1] == num_tokens:
                    torch._dynamo.mark_dynamic(tensor, 1)
        return self._compiled(self._own, hidden, **inputs)


class CompiledBody(nn.Module):
    """Takes the place of a causal model's body, whose layers are compiled."""

    def __init__(self, own: nn.Module, num_layers: int) -> None:
        super().__init__()
        self._own = own
        self._relay = Relay(num_layers)
        self.stance = "default"
        """Of torch.compiler: `default` compiles what is new."""

    def forward(self, *, step: Attends, **inputs: Any) -> Any:
        """What the body itself returns."""
        self._relay.begin(step)
        with torch.compiler.set_stance(self.stance):
            return self._own(step=self._relay, **inputs)


class CompiledHead(nn.Module):
    """Takes the place of the layer that makes logits: compiled for one row, as it is for more."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self._own = own
        self._compiled: Any = torch.compile(own, fullgraph=True, dynamic=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [1, R, hidden]; logits [1, R, V]."""
        run = self._compiled if hidden.shape[1] == 1 else self._own
        logits: torch.Tensor = run(hidden)
        return logits


def compile_model(model: PreTrainedModel) -> None:
    """Replace the model's layers, and its head where one row is quicker compiled; compile, or take it from the disk.

    Raises what torch.compile raises, and LookupError where the layers are not found.
    """
    num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    stacks = [one for one in model.base_model.children() if isinstance(one, nn.ModuleList) and len(one) == num_layers]
    if len(stacks) != 1:
        raise LookupError("its layers are not found")
    (layers,) = stacks
    compiled = [CompiledLayer(layer) for layer in layers]
    for index, layer in enumerate(compiled):
        layers[index] = layer
    body = CompiledBody(model.base_model, num_layers)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    setattr(model, model.base_model_prefix, body)
    if isinstance(head, CpuLinear) and head.is_narrow:
        name = next(name for name, child in model.named_children() if child is head)
        setattr(model, name, CompiledHead(head))
    for num_tokens in (1, WARM_TOKENS):
        ids = torch.zeros(1, num_tokens, dtype=torch.int64, device=model.device)
        positions = torch.arange(num_tokens, device=model.device).unsqueeze(0)
        attention.forward(model, ids, positions, positions[0, :1], attention.Probe())
    for layer in compiled:
        layer.is_warming = False
    body.stance = "eager_on_recompile"  # what fits neither version runs as it is: no request waits for the compiler


def use_disk_cache() -> None:
    """Keep what is compiled, so that the next start takes it from there.

    By number of threads, which is written into the code: with one too many, they contend.
    """
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, default_cache_dir()):  # torch itself sets the default
        directory = cache_dir() / "compiled" / f"threads-{torch.get_num_threads()}"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(directory)
    # in this process: a pool of compiling processes would take longer to start than it saves (each imports torch)
    inductor_config.compile_threads = 1


def _call(layer: nn.Module, hidden: torch.Tensor, **inputs: Any) -> Any:
    return layer(hidden, **inputs)


_NUMBERS = count()
_RELAYS: WeakValueDictionary[int, Relay] = WeakValueDictionary()
"""An operator takes tensors and numbers, no objects."""


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks: torch.Tensor | None,
    number: int,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    flavour = Flavour(scaling, window, softcap, sinks)
    return _RELAYS[number].hand_on(query, key, value, flavour).contiguous()


def _shape(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


_LIBRARY = torch.library.Library("tokenyard", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "attend(Tensor query, Tensor key, Tensor value, Tensor? sinks, int number, float scaling, int? window,"
    " float? softcap) -> Tensor"
)
_LIBRARY.impl("attend", _attend, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("attend", _shape, "Meta")  # type: ignore[no-untyped-call]
