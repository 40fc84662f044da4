"""Attention over a row ``[P_1 .. P_G, R_11 .. R_1n, .., R_Gn, S_1 ..]``: prompts, their responses, sequences alone.

Every block sees itself (causal); a response also sees all of its group's prompt. That is a cascade: one call in which
each block sees itself, one in which each group's responses see its prompt, merged by their log-sum-exps. Backward:
both calls' backwards with the *merged* output and log-sum-exp, which makes each part's gradient exact (as in ring
attention). On CUDA the calls are PyTorch's own FlashAttention kernels, on CPUs those of its CPU attention.

Shape legend: T tokens of a row, H query heads, K key heads, D head size, B blocks, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

TEXT, VISION = "videoseg_rows", "videoseg_flash_rows"
"""Names in transformers' registry. Its vision towers hand over ``cu_seqlens`` only if the name contains "flash"."""


@torch.library.custom_op("videoseg::attend", mutates_args=())
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    queries: Tensor,
    prompts: Tensor,
    longest_block: int,
    longest_query: int,
    longest_prompt: int,
    shared: int,
    answers: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """(T, H, D) output and (H, T) float32 log-sum-exp.

    Args:
        q, k, v: (T, H, D), (T, K, D), (T, K, D).
        blocks: (B + 1,) int32 offsets of the blocks that see themselves, over the whole row.
        queries, prompts: (G + 1,) int32 offsets of each group's responses (counted from row ``shared``) and prompt.
        shared, answers: rows of all shared prompts; rows of all responses to them. 0 for a row without.
    """
    out, lse = _varlen(q, k, v, blocks, blocks, longest_block, longest_block, causal, scale)
    if answers:
        a, p = slice(shared, shared + answers), slice(None, shared)
        seen, weight = _varlen(q[a], k[p], v[p], queries, prompts, longest_query, longest_prompt, False, scale)
        _merge(out, lse, seen, weight, shared, answers)
    return out, lse


@attend.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    lse = q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)
    return torch.empty_like(q, memory_format=torch.contiguous_format), lse


@torch.library.custom_op("videoseg::attend_backward", mutates_args=())
def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    blocks: Tensor,
    queries: Tensor,
    prompts: Tensor,
    longest_block: int,
    longest_query: int,
    longest_prompt: int,
    shared: int,
    answers: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grad = grad.contiguous()
    dq, dk, dv = _varlen_backward(grad, q, k, v, out, lse, blocks, blocks, longest_block, longest_block, causal, scale)
    if answers:
        a, p = slice(shared, shared + answers), slice(None, shared)
        more = _varlen_backward(
            grad[a], q[a], k[p], v[p], out[a], lse[:, a].contiguous(), queries, prompts, longest_query, longest_prompt,
            False, scale,
        )  # fmt: skip
        dq[a] += more[0]
        dk[p] += more[1]
        dv[p] += more[2]
    return dq, dk, dv


@attend_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, blocks, queries, prompts, *ctx.rest = inputs
    ctx.save_for_backward(q, k, v, *output, blocks, queries, prompts)


def _backward(ctx: Any, grad: Tensor, _grad_lse: Tensor) -> tuple[Any, ...]:
    return (*attend_backward(grad, *ctx.saved_tensors, *ctx.rest), *(None,) * (3 + len(ctx.rest)))


attend.register_autograd(_backward, setup_context=_setup)

# ---- the two calls, by PyTorch's kernels -------------------------------------------------------------------


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    if q.is_cuda:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, cu_q, cu_k, max_q, max_k, 0.0, causal, False, scale=scale
        )
        return out, lse
    out, lse = torch.empty_like(q), q.new_empty((q.shape[1], q.shape[0]))
    for rows, keys, n in _alike(cu_q, cu_k):
        a, b, c = _pieces(q[rows], k[keys], v[keys], n)
        found, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(a, b, c, 0.0, causal, scale=scale)
        out[rows] = found.transpose(1, 2).flatten(0, 1)
        lse[:, rows] = total.transpose(0, 1).flatten(1)
    return out, lse


def _varlen_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v. ``out`` and ``lse`` may be those of a larger softmax of which these keys are a part."""
    if q.is_cuda:
        seed = torch.zeros(2, dtype=torch.uint64, device=q.device)
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            grad, q, k, v, out, lse, cu_q, cu_k, max_q, max_k, 0.0, causal, seed, seed[:0], scale=scale
        )
        return dq, dk, dv
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    for rows, keys, n in _alike(cu_q, cu_k):
        a, b, c = _pieces(q[rows], k[keys], v[keys], n)
        g, o = (x[rows].unflatten(0, (n, -1)).transpose(1, 2) for x in (grad, out))
        total = lse[:, rows].unflatten(1, (n, -1)).transpose(0, 1).contiguous()
        da, db, dc = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            g, a, b, c, o, total, 0.0, causal, scale=scale
        )
        dq[rows] = da.transpose(1, 2).flatten(0, 1)
        for d, x in ((dk, db), (dv, dc)):  # heads that share keys add up
            d[keys] = x.transpose(1, 2).flatten(0, 1).unflatten(1, (k.shape[1], -1)).sum(2)
    return dq, dk, dv


def _alike(cu_q: Tensor, cu_k: Tensor) -> Iterator[tuple[slice, slice, int]]:
    """Rows, keys and number of the neighbouring pieces that have the same lengths: those are one product."""
    row = key = 0
    for (queries, keys), same in groupby(zip(cu_q.diff().tolist(), cu_k.diff().tolist(), strict=True)):
        n = len(list(same))
        yield slice(row, row + n * queries), slice(key, key + n * keys), n
        row, key = row + n * queries, key + n * keys


def _pieces(q: Tensor, k: Tensor, v: Tensor, n: int) -> tuple[Tensor, ...]:
    """(n L, H or K, D) -> (n, H, L, D) each."""
    heads = q.shape[1] // k.shape[1]
    wide = (q, k.repeat_interleave(heads, 1), v.repeat_interleave(heads, 1))
    return tuple(x.unflatten(0, (n, -1)).transpose(1, 2) for x in wide)


def _merge(out: Tensor, lse: Tensor, seen: Tensor, weight: Tensor, shared: int, answers: int) -> None:
    """The responses' rows of out and lse become those of the softmax over both sets of keys, in place."""
    if out.is_cuda:
        from verl_ext.packing.kernels import merge

        merge(out, lse, seen, weight, shared, answers)
        return
    rows = slice(shared, shared + answers)
    own = lse[:, rows]
    both = torch.logaddexp(own, weight)
    out[rows] = out[rows] * (own - both).exp().T[..., None] + seen * (weight - both).exp().T[..., None]
    lse[:, rows] = both


# ---- transformers' registry -----------------------------------------------------------------------------------------


def _tokens_first(x: Tensor, like: Tensor) -> Tensor:
    return x.transpose(1, 2)[0].to(like.dtype).contiguous()  # (1, heads, T, D) -> (T, heads, D)


def text_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    *,
    row_blocks: Tensor,
    row_queries: Tensor,
    row_prompts: Tensor,
    row_longest: tuple[int, int, int],
    row_shared: tuple[int, int],
    **_: Any,
) -> tuple[Tensor, None]:
    """The language layers' attention; the ``row_*`` keywords come all the way from `forward.row_states`."""
    assert scaling is not None
    q, k, v = (_tokens_first(x, value) for x in (query, key, value))
    out, _lse = attend(q, k, v, row_blocks, row_queries, row_prompts, *row_longest, *row_shared, True, scaling)
    return out[None], None


def vision_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    *,
    cu_seq_lens_q: Tensor,
    row_picture: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Full attention inside each picture or window. ``row_picture``: patches of the largest, known on the host
    (transformers would hand over a tensor: one wait for the device in every layer)."""
    assert scaling is not None
    q, k, v = (_tokens_first(x, value) for x in (query, key, value))
    cu = cu_seq_lens_q.to(torch.int32)
    out, _lse = attend(q, k, v, cu, cu, cu, row_picture, 0, 0, 0, 0, False, scaling)
    return out[None], None


def register() -> None:
    """Make both known to transformers; the masks are in the layout, so none is built."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(TEXT, text_attention)
    AttentionInterface.register(VISION, vision_attention)
    for name in (TEXT, VISION):
        AttentionMaskInterface.register(name, lambda *args, **kwargs: None)
