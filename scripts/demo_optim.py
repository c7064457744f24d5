"""Muon in f32 with equal shapes stacked, and the learning-rate schedule.

Rules of this file: optimisation only; it knows parameters and token counts, no chats and no model.
torch.optim.Muon iterates in bf16 and matrix by matrix, which took 28 % of a step on a CPU without bf16 instructions.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch

# Coefficients and the count of the quintic Newton-Schulz iteration are those of the Muon reference.
NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 5


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """[count, rows, cols] -> the same with all singular values near one."""
    a, b, c = NS_COEFFICIENTS
    transposed = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if transposed else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NS_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = x.mT if transposed else x
    return result


class StackedMuon(torch.optim.Optimizer):
    """Muon with Nesterov momentum; updates are scaled to AdamW's usual size (0.2 * sqrt of the longer side)."""

    def __init__(
        self, params: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
            for param in group["params"]:
                by_shape[param.shape].append(param)
            for params in by_shape.values():
                self.step_shape(params, group)

    def step_shape(self, params: list[torch.nn.Parameter], group: dict[str, Any]) -> None:
        updates = []
        for param in params:
            assert param.grad is not None, "a matrix took no part in the loss"
            momentum = self.state[param].setdefault("momentum", torch.zeros_like(param))
            momentum.lerp_(param.grad, 1 - group["momentum"])
            updates.append(param.grad.lerp(momentum, group["momentum"]))
        scale = 0.2 * max(params[0].shape) ** 0.5
        for param, update in zip(params, orthogonalize(torch.stack(updates)), strict=True):
            param.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


@dataclass(frozen=True)
class Schedule:
    """Warmup, stable, decay, counted in tokens; linear to zero, since that anneals best in a short run."""

    warmup_tokens: int
    decay_start: int
    end: int

    def factor(self, tokens: int) -> float:
        """The share of the peak learning rate after so many tokens."""
        if tokens < self.warmup_tokens:
            return (tokens + 1) / self.warmup_tokens
        if tokens < self.decay_start:
            return 1.0
        return max(0.0, (self.end - tokens) / (self.end - self.decay_start))
