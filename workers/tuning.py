"""Makes a paged model quick, step by step, each kept only if the model still gives the logits that it gave before.

That is tried once for a model and this code, and remembered (verdict.py).

merge     q/k/v and gate/up of listed families (fusion.py)
lay out   weights of float32 layers on CPU, and of bfloat16 where it multiplies such (cpu_linear.py)
fit       layers are wrapped for adapters, if there may be some (rack.py); it refuses what it cannot
compile   the body on CPU, where a C++ compiler is found and the model is large enough (compiled.py)
"""

import logging
import os
import shutil
import time
from collections.abc import Callable
from functools import partial

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel

from tokenyard.workers.cpu_linear import LARGE_BYTES, CpuLinear
from tokenyard.workers.fusion import is_plain, merge
from tokenyard.workers.kernels import FAILURES
from tokenyard.workers.kv import LayerShape
from tokenyard.workers.late import LateCompile, cause
from tokenyard.workers.selftest import TOLERANCE, paged_logits
from tokenyard.workers.verdict import Tried

log = logging.getLogger(__name__)

COMPILE_BYTES = 64 << 20
"""Weights from which a model is compiled by default. Below, as with the demo model's 9 MiB, start-up is what is felt:
even from the disk's cache, compiling adds half of the time from the command to the first token."""
COMPILED = "compiled"
FREE_SHARE = 0.25
"""Of free memory, what a second form of the weights may take."""


def tune(
    model: PreTrainedModel,
    shapes: list[LayerShape],
    block_size: int,
    compiling: bool | None,
    tried: Tried,
    fit: Callable[[], bool] | None = None,
    late: bool = False,
) -> LateCompile | None:
    """Change the model in place; it must have passed its self-test. `compiling`: None leaves it to the model's size.

    `late`: what would take long is returned instead, to be done while the model serves.
    """
    on_cpu = model.device.type == "cpu"
    compiling = on_cpu and _is_compiling(model, compiling)
    steps: list[tuple[str, Callable[[], bool]]] = [("merged q/k/v and gate/up", lambda: merge(model) > 0)]
    if on_cpu and (model.dtype == torch.float32 or (model.dtype == torch.bfloat16 and multiplies_bfloat16())):
        narrow = " as compiled code takes them" if compiling else ""
        steps.append((f"weights laid out for the CPU{narrow}", lambda: _lay_out(model, narrow=compiling)))
    if fit is not None:
        steps.append(("made ready for adapters", fit))
    if compiling and not late:
        steps.append((COMPILED, lambda: _compile(model)))
    is_known = all(name in tried for name, _ in steps)
    expected = None if is_known else paged_logits(model, shapes, block_size)
    for name, change in steps:
        began = time.perf_counter()
        before = [(module, dict(module.named_children())) for module in model.modules()]
        try:
            if not change():
                continue
            trouble = "" if expected is None else _difference(model, shapes, block_size, expected)
        except FAILURES as failure:
            trouble = cause(failure)
        if trouble:
            log.warning("not %s: %s", name, trouble)
            for module, children in before:
                module._modules.update(children)
        else:
            log.info("%s in %.1f s", name, time.perf_counter() - began)
            if name != COMPILED:  # the trial is what has it compiled
                tried.add(name)
    return LateCompile(model, partial(_compile_checked, shapes, block_size)) if compiling and late else None


def _is_compiling(model: PreTrainedModel, wanted: bool | None) -> bool:
    """Whether to compile, with a word where somebody may expect it."""
    large = _weight_bytes(model) >= COMPILE_BYTES
    if wanted is False or not (wanted or large):
        return False
    if find_compiler() is None:
        log.warning("not compiled: no C++ compiler is found (g++, or what CXX names)")
        return False
    if not (wanted or model._can_compile_fullgraph):
        log.info("not compiled: %s does not say that it can be", type(model).__name__)
        return False
    return True


def _lay_out(model: PreTrainedModel, narrow: bool) -> bool:
    """Replace linear layers, if there is memory for a second form of their weights."""
    if _weight_bytes(model) > FREE_SHARE * psutil.virtual_memory().available:
        return False
    linears = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and is_plain(child) and child.weight.nbytes >= LARGE_BYTES
    ]
    for parent, name, child in linears:
        setattr(parent, name, CpuLinear(child, narrow))
    return bool(linears)


@torch.inference_mode()
def _compile(model: PreTrainedModel) -> bool:
    # here, as it imports torch's compiler, which a model that is not compiled need not wait for
    from tokenyard.workers.compiled import compile_model, use_disk_cache

    use_disk_cache()
    compile_model(model)
    return True


@torch.inference_mode()
def _compile_checked(shapes: list[LayerShape], block_size: int, model: PreTrainedModel) -> str:
    """Why the compiled model must not be used; empty: it may."""
    expected = paged_logits(model, shapes, block_size)
    _compile(model)
    return _difference(model, shapes, block_size, expected)


def _difference(model: PreTrainedModel, shapes: list[LayerShape], block_size: int, expected: torch.Tensor) -> str:
    """Words if its logits are no longer those that are expected."""
    error = float((paged_logits(model, shapes, block_size) - expected).abs().max() / expected.abs().max())
    return "" if error <= TOLERANCE[model.dtype] else f"other logits (by {error:.2g})"  # NaN is trouble too


def multiplies_bfloat16() -> bool:
    """Whether this CPU has products of bfloat16; elsewhere oneDNN makes them of others."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def find_compiler() -> str | None:
    """The C++ compiler that torch would call."""
    return shutil.which(os.environ.get("CXX") or "g++")


def _weight_bytes(model: PreTrainedModel) -> int:
    return sum(one.nbytes for one in model.parameters())
