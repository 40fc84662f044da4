"""Triton kernels of the rows; imported on CUDA only.

Lengths are not specialised on: rows of another length must not compile anew.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 4096
"""Logits that a program holds at once."""


@triton.jit(do_not_specialize=["shared", "rows", "total"])
def _merge(OUT, LSE, SEEN, WEIGHT, shared, rows, total, H, D: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head = tl.program_id(1)
    there = row < rows
    own = tl.load(LSE + head * total + shared + row, mask=there, other=0.0)
    weight = tl.load(WEIGHT + head * rows + row, mask=there, other=0.0)
    top = tl.maximum(own, weight)
    both = top + tl.log(tl.exp(own - top) + tl.exp(weight - top))
    tl.store(LSE + head * total + shared + row, both, mask=there)
    at = (row.to(tl.int64)[:, None] * H + head) * D + tl.arange(0, D)[None, :]
    start = shared.to(tl.int64) * H * D
    x = tl.load(OUT + start + at, mask=there[:, None], other=0.0).to(tl.float32)
    y = tl.load(SEEN + at, mask=there[:, None], other=0.0).to(tl.float32)
    x = x * tl.exp(own - both)[:, None] + y * tl.exp(weight - both)[:, None]
    tl.store(OUT + start + at, x.to(OUT.dtype.element_ty), mask=there[:, None])


def merge(out: Tensor, lse: Tensor, seen: Tensor, weight: Tensor, shared: int, answers: int) -> None:
    """See `attention._merge`."""
    assert all(x.is_contiguous() for x in (out, lse, seen, weight))
    total, heads, size = out.shape
    grid = (triton.cdiv(answers, 32), heads)
    _merge[grid](out, lse, seen, weight, shared, answers, total, heads, D=size, BLOCK=32)


@triton.jit
def _score(X, LABEL, BANNED, LOGP, LSE, ENTROPY, stride, V, SCALE, FORBIDDEN, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    top = -float("inf")
    total = 0.0
    weighted = 0.0
    for start in range(0, V, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(X + row * stride + at, mask=at < V, other=-float("inf")).to(tl.float32)
        x = tl.where(tl.load(BANNED + at, mask=at < V, other=0) != 0, FORBIDDEN, x) * SCALE
        new = tl.maximum(top, tl.max(x, 0))
        e = tl.exp(x - new)
        shrink = tl.exp(top - new)
        total = total * shrink + tl.sum(e, 0)
        weighted = weighted * shrink + tl.sum(tl.where(at < V, e * x, 0.0), 0)
        top = new
    lse = top + tl.log(total)
    label = tl.load(LABEL + row)
    x = tl.load(X + row * stride + label).to(tl.float32)
    x = tl.where(tl.load(BANNED + label) != 0, FORBIDDEN, x) * SCALE
    tl.store(LOGP + row, x - lse)
    tl.store(LSE + row, lse)
    tl.store(ENTROPY + row, lse - weighted / total)


@triton.jit
def _unscore(X, LABEL, BANNED, LSE, GRAD, stride, V, SCALE, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + row * stride + at, mask=at < V, other=-float("inf")).to(tl.float32) * SCALE
    p = tl.exp(x - tl.load(LSE + row))
    hit = tl.where(at == tl.load(LABEL + row), 1.0, 0.0)
    g = tl.load(GRAD + row) * SCALE * (hit - p)
    g = tl.where(tl.load(BANNED + at, mask=at < V, other=1) != 0, 0.0, g)
    tl.store(X + row * stride + at, g.to(X.dtype.element_ty), mask=at < V)


def score(logits: Tensor, labels: Tensor, banned: Tensor, scale: float, forbidden: float) -> tuple[Tensor, ...]:
    """See `logprob._score`; ``banned`` (V,) uint8."""
    m, v = logits.shape
    logp, lse, entropy = (torch.empty(m, device=logits.device) for _ in range(3))
    if m:
        _score[(m,)](
            logits, labels, banned, logp, lse, entropy, logits.stride(0), v, scale, forbidden, BLOCK=COLUMNS,
            num_warps=8,
        )  # fmt: skip
    return logp, lse, entropy


def unscore_(logits: Tensor, labels: Tensor, banned: Tensor, lse: Tensor, grad: Tensor, scale: float) -> None:
    """In place: logits become their gradient."""
    m, v = logits.shape
    if m:
        grid = (m, triton.cdiv(v, COLUMNS))
        _unscore[grid](
            logits, labels, banned, lse, grad.contiguous(), logits.stride(0), v, scale, BLOCK=COLUMNS, num_warps=8
        )
