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


def mask_losses(seg: SegBatch, masks: torch.Tensor, least: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 2) BCE and (B, 2) dice: mean over each sequence's video masks, and over its keyframe masks; 0 without any.

    Args:
        masks: (M, h, w) logits, one per pair of ``seg``.
        least: masks of a lower IoU with the truth count with a loss of 0.
    """
    truth = ground_truth(seg, (masks.shape[-2], masks.shape[-1]), union_mask).to(masks.device)
    kept = (_ious(masks.detach() > 0, truth > 0.5) >= least).to(masks.dtype)
    kind, owner = seg.column(2).to(masks.device), seg.column(3).to(masks.device)
    slot = owner * 2 + (kind == KEYFRAME).long()
    size = 2 * len(seg.positions)
    count = torch.zeros(size, device=masks.device).index_add(0, slot, torch.ones(len(slot), device=masks.device))

    def per_sequence(values: torch.Tensor) -> torch.Tensor:
        sums = torch.zeros(size, device=masks.device).index_add(0, slot, values)
        return (sums / count.clamp(min=1)).view(-1, 2)

    return per_sequence(kept * mask_bce(masks, truth)), per_sequence(kept * mask_dice(masks, truth))


def _ious(masks: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(M,) of (M, h, w) booleans; 1 where both are empty."""
    union = (masks | truth).flatten(1).sum(1)
    return torch.where(union > 0, (masks & truth).flatten(1).sum(1) / union.clamp(min=1), 1.0)
