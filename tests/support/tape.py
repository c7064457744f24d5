"""A CUDA graph's stand-in on CPU: records the operations of a function, and runs the very same ones again.

Like a graph it keeps the numbers and the memory of the recording: a Python number that should have changed, or a tensor
made anew, gives wrong results on replay. Like a graph it refuses what waits for the device or depends on its data.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REFUSED = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class _Call(NamedTuple):
    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[torch.Tensor]


class Tape(TorchDispatchMode):
    """One recording."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self._calls: list[_Call] = []
        self.num_replays = 0
        with self:
            work()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        indexed = func is torch.ops.aten.index.Tensor and not any(one.dtype == torch.bool for one in _tensors(args[1]))
        if (REFUSED & set(func.tags) and not indexed) or func is torch.ops.aten.lift_fresh.default:
            raise RuntimeError(f"a CUDA graph cannot record {func}")
        result = func(*args, **(kwargs or {}))
        self._calls.append(_Call(func, args, kwargs or {}, _tensors(result)))
        return result

    def replay(self) -> None:
        self.num_replays += 1
        for operation, args, kwargs, outputs in self._calls:
            for recorded, found in zip(outputs, _tensors(operation(*args, **kwargs)), strict=True):
                if found.data_ptr() != recorded.data_ptr():  # neither a view nor written in place
                    recorded.copy_(found)


class TapeRecorder:
    """A Recorder."""

    def warm_up(self, work: Callable[[], None]) -> None:
        work()

    def __call__(self, work: Callable[[], None]) -> Tape:
        return Tape(work)


record = TapeRecorder()


def _tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
