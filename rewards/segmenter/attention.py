"""Memory attention for a batch whose items remember different frames.

Items that remember as much share one dense call. Others lie one after another without padding: on a GPU they are one
call of the kernel for pieces of different lengths. No mask is needed, which the fast kernels do not take, and nobody
computes with what it does not see.

Shape legend: n items, Q positions of a frame, T memory tokens of all items, d width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from rewards.segmenter.architecture import Architecture
from rewards.segmenter.memory import Memory
from rewards.segmenter.pieces import EAGER, Pieces


def attend_to_memory(
    arch: Architecture, frame: Tensor, position: Tensor, turns: Tensor, memory: Memory, pieces: Pieces = EAGER
) -> Tensor:
    """(n, d, h, w) frame and its (1, d, h, w) position encoding -> (n, d, h, w) fused with memory.

    ``turns``: (Q + 1, d / 2, 2), see `rotations`.
    """
    layers, norm = arch.memory_layers()
    hidden = (frame + 0.1 * position).flatten(2).transpose(1, 2).contiguous()
    for layer in layers:
        mixed = _mix(*pieces.into_frame(layer, hidden, turns[:-1]))
        hidden, queries = pieces.into_memory(layer, hidden, mixed, turns[:-1])
        keys, values = pieces.recall(layer.over_memory, memory.tokens, memory.placed, turns, memory.rows)
        hidden = pieces.onward(layer, hidden, _mix_memory(queries, keys, values, memory))
    return norm(hidden).transpose(1, 2).reshape(frame.shape)


def _mix_memory(queries: Tensor, keys: Tensor, values: Tensor, memory: Memory) -> Tensor:
    """(n, Q, d)"""
    if memory.starts is None:
        return _mix(queries, keys, values)
    if takes_packed(queries):
        return _mix_packed(queries, keys[0], values[0], memory.starts, max(memory.lengths))
    parts = (queries.split(1), keys.split(memory.lengths, 1), values.split(memory.lengths, 1))
    return torch.cat([_mix(*part) for part in zip(*parts, strict=True)])


def takes_packed(queries: Tensor) -> bool:
    """Whether the kernel for items of different lengths runs: alone, an item fills a quarter of a large GPU."""
    return queries.is_cuda and queries.dtype in (torch.bfloat16, torch.float16)


def _mix_packed(queries: Tensor, keys: Tensor, values: Tensor, starts: Tensor, longest: int) -> Tensor:
    """(n, Q, d) over (T, d) keys and values, of which each item's begin at one of (n + 1,) ``starts``."""
    n, count, width = queries.shape
    own = torch.arange(0, (n + 1) * count, count, dtype=torch.int32, device=queries.device)
    mixed = varlen_attn(queries.reshape(-1, 1, width), keys[:, None], values[:, None], own, starts, count, longest)
    assert isinstance(mixed, Tensor)
    return mixed.reshape(n, count, width)


def _mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
