"""SAM 2's memory attention with a mask, for a batch whose items remember different frames.

The package's own module has no mask, and without one such items could not share a batch. A masked token gets weight
zero exactly, so that an item's result is that of the package's module on the item's own memories.

Shape legend: n items, Q positions of a frame, L memory tokens, d width, m memory channels.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from rewards.segmenter.memory import MemoryTokens


def attend_to_memory(attention: Any, frame: Tensor, position: Tensor, memory: MemoryTokens) -> Tensor:
    """(n, d, h, w) frame and its (1, d, h, w) position encoding -> (n, d, h, w) fused with memory.

    ``attention`` is sam2's ``MemoryAttention``, in eval mode.
    """
    current = frame.flatten(2).permute(2, 0, 1)
    current_position = position.expand(frame.shape[0], -1, -1, -1).flatten(2).permute(2, 0, 1)
    if memory.visible is None:
        fused: Tensor = attention(
            curr=current,
            curr_pos=current_position,
            memory=memory.tokens,
            memory_pos=memory.positions,
            num_obj_ptr_tokens=memory.num_pointer_tokens,
        )
        return fused.permute(1, 2, 0).reshape(frame.shape)
    hidden = (current + 0.1 * current_position).transpose(0, 1)
    query_position = current_position.transpose(0, 1)
    values = memory.tokens.transpose(0, 1)
    keys = values + memory.positions.transpose(0, 1)
    for layer in attention.layers:
        hidden = layer._forward_sa(hidden, query_position)
        hidden = hidden + _cross_attention(layer.cross_attn_image, layer.norm2(hidden), keys, values, memory)
        hidden = hidden + layer.linear2(layer.activation(layer.linear1(layer.norm3(hidden))))
    return attention.norm(hidden).transpose(1, 2).reshape(frame.shape)  # type: ignore[no-any-return]


def _cross_attention(attention: Any, queries: Tensor, keys: Tensor, values: Tensor, memory: MemoryTokens) -> Tensor:
    """(n, Q, d): rotary positions on all but the pointer tokens, as in sam2's ``RoPEAttention``."""
    from sam2.modeling.position_encoding import apply_rotary_enc

    assert memory.visible is not None
    side = round(queries.shape[1] ** 0.5)
    if attention.freqs_cis.shape[0] != queries.shape[1]:
        attention.freqs_cis = attention.compute_cis(end_x=side, end_y=side)
    attention.freqs_cis = rotary = attention.freqs_cis.to(queries.device)
    q = attention.q_proj(queries)[:, None]
    k = attention.k_proj(keys)[:, None]
    v = attention.v_proj(values)[:, None]
    spatial = k.shape[2] - memory.num_pointer_tokens
    q, k[:, :, :spatial] = apply_rotary_enc(q, k[:, :, :spatial], freqs_cis=rotary, repeat_freqs_k=True)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=memory.visible[:, None, None, :])
    out: Tensor = attention.out_proj(mixed[:, 0])
    return out
