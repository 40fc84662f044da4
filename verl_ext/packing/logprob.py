"""log p(label) and entropy of scored tokens from their hidden states; no float32 [tokens x vocabulary] is ever made.

Logits exist in the weights' precision, a chunk of tokens at a time. They are kept for the backward pass (fast) or
computed again there. Forbidden tokens are left out of the softmax as the sampler leaves them out.

Shape legend: M scored tokens, C hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FORBIDDEN_LOGIT = -1e9
"""Finite after a division by any temperature, so that entropy (0 x logit) stays a number."""
CHUNK = {"cuda": 8192, "cpu": 512}
"""Scored tokens whose logits are computed at once; on the CPU the plain version widens them to float32."""


def linear_log_prob(
    hidden: Tensor, weight: Tensor, labels: Tensor, banned: Tensor, temperature: float = 1.0, keep: bool = True
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of ``softmax(hidden weight^T / temperature)``, each (M,) float32.

    Args:
        hidden: (M, C).
        weight: (V, C) of the output layer.
        labels: (M,) int64.
        banned: (V,) uint8, not 0 for tokens that have no probability.
        keep: keep the logits for the backward pass, 2 M V bytes in bfloat16.

    The entropy has no gradient.
    """
    keep = keep and torch.is_grad_enabled()
    logp, entropy = _LinearLogProb.apply(hidden.to(weight.dtype), weight, labels, banned, 1.0 / temperature, keep)
    return logp, entropy


class _LinearLogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, banned: Tensor, scale: float, keep: bool
    ) -> tuple[Tensor, Tensor]:
        chunk = CHUNK[hidden.device.type]
        parts, kept = [], []
        for h, y in zip(hidden.split(chunk), labels.split(chunk), strict=True):
            logits = h @ weight.T
            parts.append(_score(logits, y, banned, scale))
            if keep:
                kept.append(logits)
        logp, lse, entropy = (torch.cat(x) for x in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, labels, banned, lse)
        ctx.kept, ctx.scale, ctx.chunk = kept, scale, chunk
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, labels, banned, lse = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        kept, ctx.kept = ctx.kept, None
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight) if wants_weight else None  # of no scored token too: FSDP counts on it
        for i, start in enumerate(range(0, len(labels), ctx.chunk)):
            rows = slice(start, start + ctx.chunk)
            logits = kept[i] if kept else hidden[rows] @ weight.T
            if kept:
                kept[i] = None
            _unscore_(logits, labels[rows], banned, lse[rows], grads[0][rows], ctx.scale)
            if wants_hidden:
                torch.mm(logits, weight, out=d_hidden[rows])
            if d_weight is not None:
                d_weight.addmm_(logits.T, hidden[rows])
        return d_hidden if wants_hidden else None, d_weight, None, None, None, None


def _score(logits: Tensor, labels: Tensor, banned: Tensor, scale: float) -> tuple[Tensor, ...]:
    """(M, V) -> log-prob, log-sum-exp, entropy, each (M,) float32."""
    if logits.is_cuda:
        from verl_ext.packing.kernels import score

        return score(logits, labels, banned, scale, FORBIDDEN_LOGIT)
    x = logits.float().masked_fill(banned.bool(), FORBIDDEN_LOGIT) * scale
    lse = x.logsumexp(1)
    return x.gather(1, labels[:, None])[:, 0] - lse, lse, lse - ((x - lse[:, None]).exp() * x).sum(1)


def _unscore_(logits: Tensor, labels: Tensor, banned: Tensor, lse: Tensor, grad: Tensor, scale: float) -> None:
    """In place: logits become their gradient."""
    if logits.is_cuda:
        from verl_ext.packing.kernels import unscore_

        unscore_(logits, labels, banned, lse, grad, scale)
        return
    p = (logits.float() * scale - lse[:, None]).exp_()
    p.mul_(-grad[:, None]).scatter_add_(1, labels[:, None], grad[:, None]).mul_(scale)
    logits.copy_(p.masked_fill_(banned.bool(), 0.0))
