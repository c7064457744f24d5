"""Where LoRA adapters lie on the device, and how they come into a model's forward.

A rack has shelves, one an adapter. Each linear layer that may be adapted is wrapped once, when the model is loaded, and
keeps its matrices of all shelves side by side: y += (x A^T) B^T for those tokens of a step that have an adapter. Which
those are is said by Groups or, where a graph records it, by Masked. Must not know of sequences, files, or names of
adapters.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tokenyard.broker.errors import SetupError, first_line
from tokenyard.workers.cpu_linear import CpuLinear
from tokenyard.workers.kernels import FAILURES
from tokenyard.workers.stage import to_device

log = logging.getLogger(__name__)

PROBE_TOKENS = 7
"""Any number will do that is no other size of a model: a layer that sees another number of rows sees a part of them."""

SPARE = 1
"""One more shelf than adapters: there the next version of one is put while sequences still have the last."""


class Part(NamedTuple):
    """One of the layers whose results lie side by side in a merged one's; of any other layer, the layer itself."""

    name: str
    """As the model's own code calls it."""
    first: int
    width: int
    """Its columns of the result."""


class Product(NamedTuple):
    """An adapter's matrices for one layer: y += (x down^T) up."""

    down: torch.Tensor  # [r, in]
    up: torch.Tensor  # [r, out], its scale multiplied in


class LayerSize(NamedTuple):
    """Of a layer that may be adapted."""

    num_inputs: int
    num_outputs: int


class Applies(Protocol):
    """What one forward adds to its layers' results."""

    def add(self, layer: "Adapted", x: torch.Tensor, y: torch.Tensor) -> None:
        """x: [T, in]; y: [T, out], changed in place."""
        ...


class Adapted(nn.Module):
    """Takes the place of a linear layer."""

    def __init__(self, own: nn.Module, parts: list[Part], rack: "Rack") -> None:
        super().__init__()
        self.own = own
        self.parts = parts
        self.in_features = _in_features(own)
        self.out_features = sum(part.width for part in parts)
        self._rack = rack
        shape = (rack.num_shelves, len(parts) * rack.rank, self.in_features)
        self.down = torch.zeros(shape, dtype=rack.dtype, device=rack.device)  # [S, P * R, in]
        """Of each shelf, the parts' rows one after another."""
        self.ups = [
            torch.zeros(rack.num_shelves, rack.rank, part.width, dtype=rack.dtype, device=rack.device) for part in parts
        ]
        self.ranks = [[0] * len(parts) for _ in range(rack.num_shelves)]
        """Of what lies on each shelf, for each part; 0: nothing."""
        number = next(_NUMBERS)
        self.number = nn.Buffer(torch.tensor(number), persistent=False)
        _LAYERS[number] = self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., in]; result: [..., out]."""
        y: torch.Tensor = self.own(x)
        if torch.compiler.is_compiling():
            torch.ops.tokenyard.adapt(x, y, self.number)
        else:
            self.adapt(x, y)
        return y

    def __getattr__(self, name: str) -> Any:
        """While it is tried: code that reads a weight by itself would pass an adapter by."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if not isinstance(self._rack.step, _Probe):
                raise
            self._rack.step.read.add(self)
            return getattr(self.own, name)

    def adapt(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add to y what the step says."""
        if self._rack.step is not None:
            self._rack.step.add(self, x.reshape(-1, self.in_features), y.view(-1, self.out_features))

    def place(self, shelf: int, part: int, product: Product) -> None:
        rank, first = len(product.down), part * self._rank
        self.down[shelf, first : first + rank] = product.down
        self.ups[part][shelf, :rank] = product.up
        self.ranks[shelf][part] = rank

    def clear(self, shelf: int) -> None:
        if any(self.ranks[shelf]):
            self.down[shelf] = 0
            for up in self.ups:
                up[shelf] = 0
            self.ranks[shelf] = [0] * len(self.parts)

    @property
    def num_bytes(self) -> int:
        return sum(one.nbytes for one in (self.down, *self.ups))

    @property
    def _rank(self) -> int:
        return self._rack.rank


class Groups:
    """The tokens of each adapter of one step that is not recorded; those of none cost nothing.

    Tokens of one adapter that lie side by side, as a prompt's do, are computed where they are. Those that do not, as
    decodes, are brought together, all adapters' at once: what few rows take is mostly the number of operations.
    """

    def __init__(self, runs: list[tuple[int, int]], device: torch.device) -> None:
        """`runs`: (shelf from 1, or 0 for none; number of packed tokens), in the order in which they are packed."""
        rows: dict[int, list[int]] = {}
        self._num_tokens = 0
        for shelf, num_tokens in runs:
            if shelf:
                rows.setdefault(shelf - 1, []).extend(range(self._num_tokens, self._num_tokens + num_tokens))
            self._num_tokens += num_tokens
        self._side_by_side: list[tuple[int, slice]] = []
        self._scattered: list[tuple[int, slice]] = []
        """Places in `_order`."""
        order: list[int] = []
        for shelf, own in rows.items():
            if own[-1] + 1 - own[0] == len(own):
                self._side_by_side.append((shelf, slice(own[0], own[-1] + 1)))
            else:
                self._scattered.append((shelf, slice(len(order), len(order) + len(own))))
                order += own
        self._order = to_device(order, torch.int64, device) if order else None

    def add(self, layer: Adapted, x: torch.Tensor, y: torch.Tensor) -> None:
        assert len(x) == self._num_tokens
        for shelf, rows in self._side_by_side:
            _add_product(layer, shelf, x[rows], y[rows])
        if self._order is not None:
            inputs, sums = x[self._order], y.new_zeros(len(self._order), layer.out_features)
            for shelf, rows in self._scattered:
                _add_product(layer, shelf, inputs[rows], sums[rows])
            y.index_add_(0, self._order, sums)


def _add_product(layer: Adapted, shelf: int, x: torch.Tensor, y: torch.Tensor) -> None:
    """All rows with what lies on one shelf, from 0. x: [N, in]; y: [N, out]."""
    height, ranks = layer.down.shape[1] // len(layer.parts), layer.ranks[shelf]
    together = linear(x, layer.down[shelf]) if min(ranks) == height else None
    for index, (part, rank) in enumerate(zip(layer.parts, ranks, strict=True)):
        if rank:
            own = slice(index * height, index * height + rank)
            narrow = linear(x, layer.down[shelf, own]) if together is None else together[:, own]
            y[:, part.first : part.first + part.width].addmm_(narrow, layer.ups[index][shelf, :rank])


class Masked:
    """The same where only the device knows the tokens' adapters: all shelves are multiplied, and one a token is kept.

    Nothing in it depends on which adapters there are. It reads all shelves once, however many tokens there are.
    """

    def __init__(self, shelves: torch.Tensor, num_shelves: int) -> None:
        """shelves: [T], from 1; 0: none."""
        places = torch.arange(1, num_shelves + 1, device=shelves.device)
        self._hidden = (shelves.unsqueeze(1) != places)[:, :, None]  # [T, S, 1]

    def add(self, layer: Adapted, x: torch.Tensor, y: torch.Tensor) -> None:
        num_shelves, num_rows, num_inputs = layer.down.shape
        num_parts = len(layer.parts)
        narrow = linear(x, layer.down.view(-1, num_inputs)).view(len(x), num_shelves, num_rows)
        # not multiplied by 0: another's infinity would make it no number
        narrow = narrow.masked_fill(self._hidden, 0).view(len(x), num_shelves, num_parts, -1)
        for index, (part, up) in enumerate(zip(layer.parts, layer.ups, strict=True)):
            own = narrow[:, :, index].reshape(len(x), -1)
            y[:, part.first : part.first + part.width].addmm_(own, up.view(-1, part.width))


class _Probe:
    """Finds out which layers see all tokens of a step, row by row, and are asked for nothing else."""

    def __init__(self) -> None:
        self.seen: dict[Adapted, set[int]] = {}
        """How many rows each saw."""
        self.read: set[Adapted] = set()

    def add(self, layer: Adapted, x: torch.Tensor, y: torch.Tensor) -> None:
        self.seen.setdefault(layer, set()).add(len(x))


class Rack:
    """The shelves of one model."""

    def __init__(self, most: int, rank: int, dtype: torch.dtype, device: torch.device) -> None:
        """`most`: adapters at once; `rank`: the largest that a shelf takes."""
        self.most = most
        self.num_shelves = most + SPARE
        self.rank = rank
        self.dtype = dtype
        self.device = device
        self.num_placed = 0
        """How often something was put on a shelf."""
        self.step: Applies | None = None
        """Of the forward that runs; None: it has no adapter."""
        self.places: dict[str, tuple[Adapted, int]] = {}
        """By the name that the model's own code gives a layer: what stands in its place, and which part it is."""

    @torch.inference_mode()
    def fit(self, model: PreTrainedModel, forward: Callable[[int], torch.Tensor]) -> bool:
        """Wrap the layers. Raises SetupError where the model takes it ill.

        `forward`: computes so many tokens, and perhaps one more after them; gives logits.
        """
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        expected = forward(PROBE_TOKENS)
        wrapped = [
            (parent, name, Adapted(child, _parts(parent, name, child), self), prefix)
            for prefix, parent in list(model.named_modules())
            for name, child in list(parent.named_children())
            if isinstance(child, nn.Linear | CpuLinear | Conv1D) and child is not head
        ]
        for parent, name, layer, _ in wrapped:
            setattr(parent, name, layer)
        probe = _Probe()
        try:
            with self.applied(probe):
                found = forward(PROBE_TOKENS)
        except FAILURES as failure:
            words = f"--max-loras: {type(model).__name__} takes no adapters: {first_line(failure)}"
            raise SetupError(words) from failure
        if not torch.equal(found, expected):
            raise SetupError(f"--max-loras: {type(model).__name__} gives other logits when made ready for adapters")
        for parent, name, layer, prefix in wrapped:
            seen = probe.seen.get(layer, set())
            if PROBE_TOKENS not in seen or seen - {PROBE_TOKENS, 1} or layer in probe.read:
                setattr(parent, name, layer.own)
                continue
            for index, part in enumerate(layer.parts):
                self.places[f"{prefix}.{part.name}" if prefix else part.name] = layer, index
        layers = {id(layer): layer for layer, _ in self.places.values()}.values()
        num_mib = sum(layer.num_bytes for layer in layers) / (1 << 20)
        words = "%d adapters of rank %d at the most: %d layers, %.0f MiB"
        log.info(words, self.most, self.rank, len(self.places), num_mib)
        return True

    @property
    def sizes(self) -> dict[str, LayerSize]:
        """What an adapter of each layer must fit."""
        return {
            name: LayerSize(layer.in_features, layer.parts[part].width) for name, (layer, part) in self.places.items()
        }

    @contextmanager
    def applied(self, step: Applies | None) -> Iterator[None]:
        """Forwards within get what this step says."""
        self.step = step
        try:
            yield
        finally:
            self.step = None

    @torch.inference_mode()
    def place(self, shelf: int, products: dict[str, Product]) -> None:
        """Put an adapter on a shelf, from 1, in place of what lies there; the names are those of `places`."""
        self.num_placed += 1
        for layer, _ in self.places.values():
            layer.clear(shelf - 1)
        for name, product in products.items():
            layer, part = self.places[name]
            layer.place(shelf - 1, part, product)

    def trial_shelf(self) -> int:
        """One on which an adapter lies: if nothing has lain there yet, one of ours, until another takes its place."""
        first = 1
        if not any(any(layer.ranks[first - 1]) for layer, _ in self.places.values()):
            self._fill(first)
        return first

    def _fill(self, shelf: int) -> None:
        """Put an adapter there that changes all it can: what reads another shelf, or none, gives other logits."""
        products = {}
        for name, (layer, part) in self.places.items():
            down = torch.full((1, layer.in_features), 0.1 / layer.in_features)
            products[name] = Product(down, torch.full((1, layer.parts[part].width), 0.1))
        self.place(shelf, products)


@contextmanager
def adapted(rack: Rack | None, runs: list[tuple[int, int]]) -> Iterator[None]:
    """The forward within, which is not recorded, has these adapters: runs of (shelf, or 0; number of packed tokens)."""
    if rack is None or not any(shelf for shelf, _ in runs):
        yield
        return
    with rack.applied(Groups(runs, rack.device)):
        yield


def _parts(parent: Any, name: str, child: nn.Module) -> list[Part]:
    """Of a child: those that fusion.py has merged in it, else itself."""
    merged: dict[str, list[tuple[str, int]]] = getattr(parent, "merged_parts", {})
    parts, first = [], 0
    for own_name, width in merged.get(name, [(name, _out_features(child))]):
        parts.append(Part(own_name, first, width))
        first += width
    return parts


def _in_features(layer: Any) -> int:
    return int(layer.nx if isinstance(layer, Conv1D) else layer.in_features)


def _out_features(layer: Any) -> int:
    return int(layer.nf if isinstance(layer, Conv1D) else layer.out_features)


_NUMBERS = count()
_LAYERS: WeakValueDictionary[int, Adapted] = WeakValueDictionary()
"""Compiled code names a layer by its number, as in cpu_linear.py: what is added changes from step to step."""


def _adapt(x: torch.Tensor, y: torch.Tensor, number: torch.Tensor) -> None:
    _LAYERS[int(number)].adapt(x, y)


_LIBRARY = torch.library.Library("tokenyard", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("adapt(Tensor x, Tensor(a!) y, Tensor number) -> ()")  # type: ignore[no-untyped-call]
_LIBRARY.impl("adapt", _adapt, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("adapt", lambda x, y, number: None, "Meta")  # type: ignore[no-untyped-call]
