"""Merges matrix products that share their input: q, k and v into one, gate and up into one.

One wide product reads the same weights in fewer, longer runs. Only modules listed here are replaced, whose forward in
transformers is exactly what ours computes; the self-test decides whether the result stays (tuning.py). Must not know of
devices, steps or compilers.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tokenyard.workers import attention

ATTENTIONS = {"LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention"}
MLPS = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"}
"""Classes of transformers' llama, mistral, qwen2 and qwen3 files, and those that other families derive from them under
the same names."""


class MergedAttention(nn.Module):
    """The attention of Llama and its like with one product for queries, keys and values."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.layer_idx: int = own.layer_idx
        self.head_dim: int = own.head_dim
        self.scaling: float = own.scaling
        self.sliding_window: int | None = _window(own)
        self.qkv_proj = merged(own.q_proj, own.k_proj, own.v_proj)
        self.widths = [own.q_proj.out_features, own.k_proj.out_features, own.v_proj.out_features]
        self.merged_parts = {"qkv_proj": list(zip(("q_proj", "k_proj", "v_proj"), self.widths, strict=True))}
        self.o_proj = own.o_proj
        self.q_norm = getattr(own, "q_norm", None)
        self.k_norm = getattr(own, "k_norm", None)
        self._rotate: Callable[..., tuple[torch.Tensor, torch.Tensor]] = vars(sys.modules[type(own).__module__])[
            "apply_rotary_pos_emb"
        ]

    def forward(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """hidden_states: [1, T, hidden]; the result too."""
        shape = hidden_states.shape[:-1]
        heads = (*shape, -1, self.head_dim)
        query, key, value = (part.view(heads) for part in self.qkv_proj(hidden_states).split(self.widths, dim=-1))
        if self.q_norm is not None:
            query = self.q_norm(query)
        if self.k_norm is not None:
            key = self.k_norm(key)
        query, key = self._rotate(query.transpose(1, 2), key.transpose(1, 2), *position_embeddings)
        output, _ = attention.paged_attention(
            self,
            query,
            key,
            value.transpose(1, 2),
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        return self.o_proj(output.reshape(*shape, -1)), None


class MergedMLP(nn.Module):
    """act(gate(x)) * up(x), then down, with one product for gate and up."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.gate_up_proj = merged(own.gate_proj, own.up_proj)
        self.merged_parts = {
            "gate_up_proj": [(name, getattr(own, name).out_features) for name in ("gate_proj", "up_proj")]
        }
        self.down_proj = own.down_proj
        self.act_fn = own.act_fn

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """hidden_states: [..., hidden]; the result too."""
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        result: torch.Tensor = self.down_proj(self.act_fn(gate) * up)
        return result


def merge(model: PreTrainedModel) -> int:
    """Replace what is listed, in place; gives back how many modules that was."""
    num_replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            new = _merged_module(child)
            if new is not None:
                setattr(parent, name, new)
                num_replaced += 1
    return num_replaced


def merged(*linears: nn.Linear) -> nn.Linear:
    """One linear layer whose result is those of `linears` side by side; they keep views of its weight, no copies."""
    first = linears[0]
    one = nn.Linear(first.in_features, sum(each.out_features for each in linears), first.bias is not None, "meta")
    one.weight = _joined([each.weight for each in linears])
    if first.bias is not None:
        one.bias = _joined([each.bias for each in linears])
    return one


def _joined(parts: list[torch.Tensor]) -> nn.Parameter:
    whole = torch.cat(parts)
    for part, view in zip(parts, torch.split(whole, [len(one) for one in parts]), strict=True):
        part.data = view
    return nn.Parameter(whole, requires_grad=False)


def _merged_module(own: Any) -> nn.Module | None:
    name = type(own).__name__
    if name in ATTENTIONS and _alike(own.q_proj, own.k_proj, own.v_proj):
        return MergedAttention(own)
    if name in MLPS and _alike(own.gate_proj, own.up_proj):
        return MergedMLP(own)
    return None


def is_plain(layer: nn.Module) -> bool:
    """Whether this is a linear layer as torch makes it, neither quantized nor adapted."""
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter


def _alike(*layers: nn.Module) -> bool:
    return all(is_plain(one) for one in layers) and len({one.bias is None for one in layers}) == 1


def _window(own: Any) -> int | None:
    """Qwen's layers know their own; Mistral's all have the config's; Llama's have none."""
    if hasattr(own, "sliding_window"):
        window: int | None = own.sliding_window
    else:
        window = getattr(own.config, "sliding_window", None)
    return window
