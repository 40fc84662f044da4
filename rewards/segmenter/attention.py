"""Memory attention for a batch whose items remember different frames.

Items that remember as many frames share one dense call, so that no mask is needed, which the fast kernels do not take,
and nobody computes with what it does not see. All else runs over the whole batch.

Shape legend: n items, g of them in a group, Q positions of a frame, L memory tokens, d width, m memory channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rewards.segmenter.architecture import Architecture, Attention
from rewards.segmenter.memory import Memory, MemoryTokens


def attend_to_memory(arch: Architecture, frame: Tensor, position: Tensor, memory: Memory) -> Tensor:
    """(n, d, h, w) frame and its (1, d, h, w) position encoding -> (n, d, h, w) fused with memory."""
    layers, norm = arch.memory_layers()
    rotary = arch.rotary(frame)
    hidden = (frame + 0.1 * position).flatten(2).transpose(1, 2)
    for layer in layers:
        first, second, third = layer.norms
        hidden = hidden + _over_frame(layer.over_frame, first(hidden), rotary)
        hidden = hidden + _over_memory(layer.over_memory, second(hidden), memory, rotary)
        hidden = hidden + layer.feed_forward(third(hidden))
    return norm(hidden).transpose(1, 2).reshape(frame.shape)


def _over_frame(attention: Attention, hidden: Tensor, rotary: Tensor) -> Tensor:
    """(n, Q, d)"""
    q, k = rotate(attention.q(hidden), rotary), rotate(attention.k(hidden), rotary)
    return attention.out(_mix(q, k, attention.v(hidden)))


def _over_memory(attention: Attention, hidden: Tensor, memory: Memory, rotary: Tensor) -> Tensor:
    """(n, Q, d)"""
    queries = rotate(attention.q(hidden), rotary)
    if memory.order is None:
        return attention.out(_read(attention, queries, memory.groups[0], rotary))
    parts = [
        _read(attention, queries.index_select(0, group.rows), group, rotary)
        for group in memory.groups
        if group.rows is not None
    ]
    return attention.out(torch.cat(parts).index_select(0, memory.order))


def _read(attention: Attention, queries: Tensor, group: MemoryTokens, rotary: Tensor) -> Tensor:
    """(g, Q, d): rotary positions on all but the pointer tokens."""
    keys = attention.k(group.tokens + group.positions)
    spatial = keys.shape[1] - group.num_pointer_tokens
    keys = torch.cat([rotate(keys[:, :spatial], rotary), keys[:, spatial:]], dim=1)
    return _mix(queries, keys, attention.v(group.tokens))


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """(n, k Q, d) turned by (Q, d / 2) rotations, the same for each of the k frames; computed in float32."""
    pairs = x.float().reshape(x.shape[0], -1, rotary.shape[0], rotary.shape[1], 2)
    return torch.view_as_real(torch.view_as_complex(pairs) * rotary).reshape(x.shape).to(x.dtype)


def _mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
