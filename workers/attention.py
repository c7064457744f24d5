"""Paged attention behind transformers' unmodified modeling code.

transformers calls `paged_attention` for each layer with the packed tokens of one step, [1, T], and hands on the `step`
keyword that the engine gave to the model's forward. The function writes the new keys and values into the paged pool and
lets each token attend to its own sequence: decodes as one batch over gathered blocks, each prefill chunk by itself.

What is the same for all layers (slots, tables, masks) is made once a step, in Step. Must not know of scheduling.
The name is not registered with AttentionMaskInterface, so transformers builds no mask at all for it.
"""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from tokenyard.workers.kv import KVPool, LayerShape

NAME = "tokenyard"
"""For `set_attn_implementation`; 'flash' or 'paged|' in a name mean something else to transformers."""


class Span(NamedTuple):
    """One prefill chunk: packed tokens [start, end), which follow `num_before` tokens of the same sequence."""

    start: int
    end: int
    num_before: int
    table: torch.Tensor
    """[1, num_blocks]: blocks that hold the sequence up to the chunk's end."""


class Probe:
    """Stands in for a Step while the model runs once without a pool, to find out what its layers keep."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
        self.shapes[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])


class Step:
    """All that attention must know of one engine step. The first packed tokens are decodes, then come the spans."""

    def __init__(
        self,
        pool: KVPool,
        slots: torch.Tensor,
        decode_tables: torch.Tensor,
        decode_positions: torch.Tensor,
        spans: list[Span],
    ) -> None:
        self.pool = pool
        self.slots = slots  # [T]
        self.decode_tables = decode_tables  # [B, num_blocks]
        self.decode_positions = decode_positions  # [B]
        self.spans = spans
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attention of one layer. query: [1, H, T, D]; key, value: [1, H_kv, T, D or D_v]; result: [1, T, H, D_v]."""
        self.pool.write(layer, self.slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
        num_decodes = self.decode_tables.shape[0]
        parts = []
        if num_decodes:
            keys, values = self.pool.read(layer, self.decode_tables)
            group = query.shape[1] // key.shape[1]
            # one query a sequence, so its heads that share a kv head may pass as queries: [B, H_kv, group, D]
            queries = query[0, :, :num_decodes].transpose(0, 1).reshape(num_decodes, key.shape[1], group, -1)
            decode_mask = self._decode_mask(keys.shape[2], window, query.dtype)
            decode_sink = None if sinks is None else sinks.view(1, -1, group, 1)
            out = _attend(queries, keys, values, decode_mask, scaling, softcap, decode_sink)
            parts.append(out.reshape(num_decodes, query.shape[1], -1))
        sink = None if sinks is None else sinks.view(1, -1, 1, 1)
        for number, span in enumerate(self.spans):
            own = slice(span.start, span.end)
            keys, values = key[:, :, own], value[:, :, own]
            if span.num_before:
                keys, values = self.pool.read(layer, span.table)
            plain = span.num_before == 0 and softcap is None and sinks is None
            causal = plain and (window is None or window >= span.end - span.start)
            mask = None if causal else self._span_mask(number, keys.shape[2], window, query.dtype)
            out = _attend(query[:, :, own], keys, values, mask, scaling, softcap, sink)
            parts.append(out[0].transpose(0, 1))
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0)

    def _decode_mask(self, num_keys: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Additive, [B, 1, 1, num_keys]."""
        return self._mask(-1, self.decode_positions.view(-1, 1, 1, 1), num_keys, window, dtype)

    def _span_mask(self, number: int, num_keys: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Additive, [1, 1, length of the span, num_keys]."""
        span = self.spans[number]
        positions = torch.arange(span.num_before, span.num_before + span.end - span.start, device=self.slots.device)
        return self._mask(number, positions.view(1, 1, -1, 1), num_keys, window, dtype)

    def _mask(
        self, number: int, positions: torch.Tensor, num_keys: int, window: int | None, dtype: torch.dtype
    ) -> torch.Tensor:
        mask = self._masks.get((number, window))
        if mask is None:
            others = torch.arange(num_keys, device=positions.device)
            hidden = others > positions
            if window:
                hidden |= others <= positions - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device).masked_fill_(hidden, float("-inf"))
            self._masks[number, window] = mask
        return mask


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One attention. query: [B, H, Q, D], key: [B, H_kv, K, D], mask: broadcasts to [B, H, Q, K]; None is causal."""
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key = key.repeat_interleave(group, dim=1)
        value = value.repeat_interleave(group, dim=1)
    if softcap is None and sinks is None:
        causal = mask is None
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, scale=scaling)
    scores = torch.matmul(query.float(), key.float().transpose(2, 3)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    assert mask is not None
    scores = scores + mask
    if sinks is not None:  # a learned score a head that takes its share of the softmax and gives nothing
        scores = torch.cat([scores, sinks.float().expand(*scores.shape[:3], 1)], dim=-1)
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
    step: Step | Probe,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [1, H, T, D] → output [1, T, H, D_v]."""
    output = step.attend(
        module.layer_idx,  # type: ignore[arg-type]
        query,
        key,
        value,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
    )
    return output, None


AttentionInterface.register(NAME, paged_attention)


def forward(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    logit_rows: torch.Tensor,
    step: Step | Probe,
) -> torch.Tensor:
    """Run the model on packed tokens [1, T] with its attention led to `step`; logits [R, V] at `logit_rows` [R]."""
    output = model(
        input_ids=input_ids, position_ids=position_ids, use_cache=False, logits_to_keep=logit_rows, step=step
    )
    return output.logits[0]  # type: ignore[no-any-return]
