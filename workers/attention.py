"""Paged attention behind transformers' unmodified modeling code.

transformers calls `paged_attention` for each layer with the packed tokens of one step, [1, T], and hands on the `step`
keyword that the engine gave to the model's forward. The function writes the new keys and values into the paged pool and
lets each token attend to its own sequence: decodes in groups over gathered blocks, each prefill chunk by itself.

What is the same for all layers (slots, tables, masks) is made once a step, in Step. Must not know of scheduling.
The name is not registered with AttentionMaskInterface: transformers then builds no mask at all.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from tokenyard.workers.kv import KVPool, LayerShape, Table

NAME = "tokenyard"
"""For `set_attn_implementation`; 'flash' or 'paged|' in a name mean something else to transformers."""


class Flavour(NamedTuple):
    """What a layer asks of its attention."""

    scaling: float
    window: int | None
    """A token sees itself and so many less one before it; None: all."""
    softcap: float | None
    """Scores pass through tanh up to this bound."""
    sinks: torch.Tensor | None
    """[H]: a learned score a head that takes its share of the softmax and gives nothing."""


class Attends(Protocol):
    """What the model's layers are led to: attends for each layer of one forward, and keeps its keys and values."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, flavour: Flavour, /
    ) -> torch.Tensor:
        """One layer. query: [1, H, T, D]; key, value: [1, H_kv, T, D or D_v]; result: [1, T, H, D_v]."""
        ...


class Decodes(NamedTuple):
    """Packed tokens [start, end): one of each of some sequences."""

    start: int
    end: int
    table: Table
    positions: torch.Tensor  # [end - start]
    length: int
    """Of the sequence, this token included, if it is one; else of the longest."""


class Span(NamedTuple):
    """One prefill chunk: packed tokens [start, end), which follow `num_before` tokens of the same sequence."""

    start: int
    end: int
    num_before: int
    table: Table
    """Up to the chunk's end."""


class Probe:
    """Stands in for a Step while the model runs once without a pool, to find out what its layers keep."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: Flavour
    ) -> torch.Tensor:
        """Note the shapes; the result is as large as a real one, and void."""
        self.shapes[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3], query.shape[1] // key.shape[1])
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])


class Step:
    """All that attention must know of one engine step. The decodes' tokens come first, then those of the spans."""

    def __init__(self, pool: KVPool, slots: torch.Tensor, decodes: list[Decodes], spans: list[Span]) -> None:
        self._pool = pool
        self._slots = slots  # [T], where each token's key and value go
        self._decodes = decodes
        self._spans = spans
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}
        """By first packed token and window."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, flavour: Flavour
    ) -> torch.Tensor:
        """One layer. query: [1, H, T, D]; key, value: [1, H_kv, T, D or D_v]; result: [1, T, H, D_v]."""
        self._pool.write(layer, self._slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
        parts = [self._decode(layer, group, query[0, :, group.start : group.end], flavour) for group in self._decodes]
        for span in self._spans:
            own = (slice(None), slice(None), slice(span.start, span.end))
            parts.append(self._prefill(layer, span, query[own], key[own], value[own], flavour))
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0)

    def _decode(self, layer: int, group: Decodes, query: torch.Tensor, flavour: Flavour) -> torch.Tensor:
        """query: [H, B, D]; result: [B, H, D_v]."""
        keys, values = self._pool.read(layer, group.table)
        num_heads, num_rows, _ = query.shape
        if num_rows == 1:
            first = max(0, group.length - flavour.window) if flavour.window else 0
            keys, values = keys[:, :, first : group.length], values[:, :, first : group.length]
            mask = None
        else:
            mask = self._mask(group.start, group.positions.view(-1, 1, 1, 1), keys, flavour.window)
        # one query a sequence, so the heads that share a kv head pass as its queries: no copy of keys for each
        queries = query.transpose(0, 1).reshape(num_rows, keys.shape[1], -1, query.shape[2])
        sinks = None if flavour.sinks is None else flavour.sinks.view(1, keys.shape[1], -1, 1)
        return attend_dense(queries, keys, values, mask, flavour._replace(sinks=sinks)).reshape(num_rows, num_heads, -1)

    def _prefill(
        self, layer: int, span: Span, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, flavour: Flavour
    ) -> torch.Tensor:
        """query: [1, H, Q, D]; key, value: the chunk's own, [1, H_kv, Q, D or D_v]; result: [Q, H, D_v]."""
        if span.num_before:
            key, value = self._pool.read(layer, span.table)
        num_queries = span.end - span.start
        seen_by_window = flavour.window is None or flavour.window >= num_queries
        plain = flavour.softcap is None and flavour.sinks is None
        if span.num_before == 0 and seen_by_window and plain:
            mask = None
        else:
            positions = torch.arange(span.num_before, span.num_before + num_queries, device=query.device)
            mask = self._mask(span.start, positions.view(1, 1, -1, 1), key, flavour.window)
        group = query.shape[1] // key.shape[1]
        if group > 1:
            key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
        sinks = None if flavour.sinks is None else flavour.sinks.view(1, -1, 1, 1)
        output = attend_dense(query, key, value, mask, flavour._replace(sinks=sinks), causal=mask is None)
        return output[0].transpose(0, 1)

    def _mask(self, start: int, positions: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
        """Additive mask [B, 1, Q, K] for queries at `positions` [B, 1, Q, 1]; made once for all layers."""
        mask = self._masks.get((start, window))
        if mask is None:
            others = torch.arange(keys.shape[2], device=keys.device)
            hidden = others > positions
            if window:
                hidden |= others <= positions - window
            mask = torch.zeros(hidden.shape, dtype=keys.dtype, device=keys.device).masked_fill_(hidden, -torch.inf)
            self._masks[start, window] = mask
        return mask


def attend_dense(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    flavour: Flavour,
    causal: bool = False,
) -> torch.Tensor:
    """Attention over keys that lie side by side.

    query: [B, H, Q, D]; key, value: [B, H, K, D or D_v]; mask: [B, 1, Q, K]; sinks: [1, H, Q or 1, 1].
    """
    if flavour.softcap is None and flavour.sinks is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, scale=flavour.scaling)
    scores = torch.matmul(query.float(), key.float().transpose(2, 3)) * flavour.scaling
    if flavour.softcap is not None:
        scores = torch.tanh(scores / flavour.softcap) * flavour.softcap
    if mask is not None:
        scores = scores + mask
    if flavour.sinks is not None:
        scores = torch.cat([scores, flavour.sinks.float().expand(*scores.shape[:3], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : key.shape[2]]
    return torch.matmul(weights, value.float()).to(query.dtype)


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    *,
    step: Attends,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [1, H, T, D] → output [1, T, H, D_v]."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: Any = module.layer_idx
    return step.attend(layer, query, key, value, Flavour(scaling, sliding_window, softcap, s_aux)), None


AttentionInterface.register(NAME, paged_attention)


def forward(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    logit_rows: torch.Tensor,
    step: Attends,
) -> torch.Tensor:
    """Run the model on packed tokens [1, T] with its attention led to `step`; logits [R, V] at `logit_rows` [R]."""
    output = model(
        input_ids=input_ids, position_ids=position_ids, use_cache=False, logits_to_keep=logit_rows, step=step
    )
    return output.logits[0]  # type: ignore[no-any-return]
