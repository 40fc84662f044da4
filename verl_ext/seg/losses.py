"""The RL loss of VideoSEG-O3 (SPEC 2.4) in plain torch: what the distributed trainer must agree with.

Shape legend: B sequences (rollouts) of L tokens, M masks of h x w pixels.

``loss = mean_b( sum_t mask*( -ratio*A + beta*k3 ) / sum_t mask ) + 0.2*(L_video + L_keyframe)``
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rollout.errors import ProtocolError
from verl_ext.seg.calibration import calibrate

ROUNDING = 1e-6
"""Spread of a group's rewards, as a share of the largest, that sums of the same parts in another order may have."""


def group_advantages(rewards: Tensor, groups: Tensor, eps: float = 1e-4) -> Tensor:
    """(B,) (r - mean) / (std + eps) within each group of rollouts of one prompt.

    groups: (B,) integer label per rollout. The standard deviation is the unbiased one, as released. A group of one
    has no baseline, and one of equal rewards (to rounding) no preference: advantage exactly 0, whatever ``eps``.
    """
    out = torch.zeros_like(rewards, dtype=torch.float32)
    for label in set(groups.tolist()):
        member = groups == label
        r = rewards[member].float()
        if r.numel() > 1 and not (r.max() - r.min() <= ROUNDING * r.abs().max()):  # what is not finite stays so
            out[member] = (r - r.mean()) / (r.std() + eps)
    return out


def k3_kl(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Elementwise k3 estimate of KL(policy || reference): exp(ref - lp) - (ref - lp) - 1, never negative."""
    gap = ref_log_probs - log_probs
    return gap.exp() - gap - 1


def sequence_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Scalar: the mean of (B, L) ``values`` over the masked tokens of each sequence, then over sequences.

    A sequence without any masked token adds 0.
    """
    kept = torch.where(mask.bool(), values, torch.zeros_like(values))
    return (kept.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def mask_bce(logits: Tensor, target: Tensor) -> Tensor:
    """(M,) BCE-with-logits of (M, h, w) masks, averaged over pixels."""
    return F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none").flatten(1).mean(dim=1)


def mask_dice(logits: Tensor, target: Tensor) -> Tensor:
    """(M,) 1 - (2 inter + 1) / (sum p + sum g + 1) of (M, h, w) masks, with p the sigmoid of the logits."""
    p, g = logits.float().sigmoid().flatten(1), target.float().flatten(1)
    return 1 - (2 * (p * g).sum(dim=1) + 1) / (p.sum(dim=1) + g.sum(dim=1) + 1)


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Scalar BCE + dice averaged over the M masks; 0, still part of the graph, if there is none.

    logits, target: (M, h, w). Raises ProtocolError if they differ in shape.
    """
    if logits.dim() != 3 or logits.shape != target.shape:
        raise ProtocolError(
            f"mask logits are {tuple(logits.shape)}, ground truth {tuple(target.shape)}; expected (M, h, w) for both"
        )
    if logits.shape[0] == 0:
        return logits.float().sum() * 0.0
    return (mask_bce(logits, target) + mask_dice(logits, target)).mean()


@dataclass(frozen=True)
class GrpoTerms:
    """The loss and what it is made of; all scalars but ``ratio`` and ``calibrated`` (B, L)."""

    loss: Tensor
    policy: Tensor
    kl: Tensor
    """Before beta."""
    aux: Tensor
    """L_video + L_keyframe, before its coefficient."""
    ratio: Tensor
    calibrated: Tensor


def grpo_objective(
    log_probs: Tensor,
    ref_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    mask_logp: Sequence[Tensor],
    positions: Sequence[Sequence[int] | Tensor],
    *,
    old_calibrated: Tensor | None = None,
    video: tuple[Tensor, Tensor] | None = None,
    keyframe: tuple[Tensor, Tensor] | None = None,
    kl_coef: float = 0.04,
    aux_coef: float = 0.2,
) -> GrpoTerms:
    """The whole objective of SPEC 2.4, without clipping.

    log_probs, ref_log_probs, response_mask: (B, L); advantages: (B,), one per rollout on all its response tokens.
    mask_logp and positions: as for ``calibrate``. The policy term uses the calibrated log-probs, KL the plain ones.
    old_calibrated: (B, L) calibrated log-probs at rollout time; None means on-policy, a ratio of exactly 1.
    video, keyframe: (logits, target) of (M, h, w) masks for the auxiliary loss.
    """
    calibrated = calibrate(log_probs, mask_logp, positions)
    old = calibrated if old_calibrated is None else old_calibrated
    ratio = (calibrated - old.detach()).exp()
    policy = sequence_mean(-ratio * advantages[:, None], response_mask)
    kl = sequence_mean(k3_kl(log_probs, ref_log_probs), response_mask)
    aux = sum((mask_loss(*masks) for masks in (video, keyframe) if masks is not None), torch.zeros_like(policy))
    return GrpoTerms(policy + kl_coef * kl + aux_coef * aux, policy, kl, aux, ratio, calibrated)
