"""The mask losses of a micro-batch, against ground truth at each mask's own frame (SPEC 2.4 and 2.6)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from rewards.truth import truth
from rollout.types import Sample
from verl_ext.seg.batch import KEYFRAME, SegBatch, ground_truth
from verl_ext.seg.losses import mask_bce, mask_dice


def union_mask(sample: Sample, frame: int) -> NDArray[np.bool_]:
    """(H, W) bool ground truth of a sample's frame.

    Raises:
        DataError: its split has no masks: a ``[SEG]`` there would learn that nothing is visible.
    """
    return truth(sample).union(frame)


def mask_losses(
    seg: SegBatch, masks: torch.Tensor, least: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, 2) BCE and (B, 2) dice: mean over each sequence's video masks, and over its keyframe masks; 0 without any.
    And (B, 2) shares of these masks that count.

    Args:
        masks: (M, h, w) logits, one per pair of ``seg``.
        least: masks of a lower IoU with the truth count as 0 in the means.
    """
    truth = ground_truth(seg, (masks.shape[-2], masks.shape[-1]), union_mask).to(masks.device)
    kept = (_ious(masks.detach(), truth) >= least).float()
    kind, owner = seg.column(2).to(masks.device), seg.column(3).to(masks.device)
    slot = owner * 2 + (kind == KEYFRAME).long()
    size = 2 * len(seg.positions)
    count = torch.zeros(size, device=masks.device).index_add(0, slot, torch.ones(len(slot), device=masks.device))

    def per_sequence(values: torch.Tensor) -> torch.Tensor:
        sums = torch.zeros(size, device=masks.device).index_add(0, slot, values)
        return (sums / count.clamp(min=1)).view(-1, 2)

    bce, dice = kept * mask_bce(masks, truth), kept * mask_dice(masks, truth)
    return per_sequence(bce), per_sequence(dice), per_sequence(kept)


def _ious(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(M,) of (M, h, w); the truth's values are shares of a pixel. 1 where both are empty."""
    drawn, there = (logits > 0).float().flatten(1), truth.float().flatten(1)
    inside = (drawn * there).sum(1)
    union = drawn.sum(1) + there.sum(1) - inside
    return torch.where(union > 0, inside / union.clamp(min=1e-6), 1.0)
