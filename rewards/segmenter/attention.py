"""Memory attention for a batch whose items remember different frames.

Items that remember as many frames share one dense call, and on a GPU all groups one call of the kernel for pieces of
different lengths: no mask is needed, which the fast kernels do not take, and nobody computes with what it does not see.

Shape legend: n items, g of them in a group, Q positions of a frame, L memory tokens, d width, m memory channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from rewards.segmenter.architecture import Architecture, Attention
from rewards.segmenter.features import upload
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
    read = [_keys_and_values(attention, group, rotary) for group in memory.groups]
    if memory.order is None:
        return attention.out(_mix(queries, *read[0]))
    parts = [queries.index_select(0, group.rows) for group in memory.groups if group.rows is not None]
    if takes_packed(queries):
        mixed = _mix_packed(torch.cat(parts), read)
    else:
        mixed = torch.cat([_mix(part, *one) for part, one in zip(parts, read, strict=True)])
    return attention.out(mixed.index_select(0, memory.order))


def _keys_and_values(attention: Attention, group: MemoryTokens, rotary: Tensor) -> tuple[Tensor, Tensor]:
    """(g, L, d) each: rotary positions on all but the pointer tokens."""
    keys = attention.k(group.tokens + group.positions)
    spatial = keys.shape[1] - group.num_pointer_tokens
    return torch.cat([rotate(keys[:, :spatial], rotary), keys[:, spatial:]], dim=1), attention.v(group.tokens)


def takes_packed(queries: Tensor) -> bool:
    """Whether the kernel for items of different lengths runs: alone, an item fills a quarter of a large GPU."""
    return queries.is_cuda and queries.dtype in (torch.bfloat16, torch.float16)


def _mix_packed(queries: Tensor, read: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(n, Q, d) of all groups in one call, one after another."""
    n, count, width = queries.shape
    keys, values = (torch.cat([one[i].flatten(0, 1) for one in read])[:, None] for i in (0, 1))
    lengths = [one[0].shape[1] for one in read for _ in range(one[0].shape[0])]
    cu_q, cu_k = offsets([count] * n, queries.device), offsets(lengths, queries.device)
    mixed = varlen_attn(queries.reshape(-1, 1, width), keys, values, cu_q, cu_k, count, max(lengths))
    assert isinstance(mixed, Tensor)
    return mixed.reshape(n, count, width)


def offsets(sizes: Sequence[int], device: torch.device) -> Tensor:
    """(N + 1,) int32: where each of N pieces begins, and where the last ends."""
    return upload(torch.tensor([0, *accumulate(sizes)], dtype=torch.int32), device)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """(n, k Q, d) turned by (Q, d / 2) rotations, the same for each of the k frames; computed in float32."""
    pairs = x.float().reshape(x.shape[0], -1, rotary.shape[0], rotary.shape[1], 2)
    return torch.view_as_real(torch.view_as_complex(pairs) * rotary).reshape(x.shape).to(x.dtype)


def _mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
