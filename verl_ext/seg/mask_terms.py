"""Mask log-probs of a micro-batch (VideoSEG-O3; SPEC 2.3), over each ``[SEG]``'s keyframe or over all its frames.

Shape legend: B sequences, N ``[SEG]`` tokens, M masks of h x w logits in the order of the batch's pairs; a sequence has
n ``[SEG]`` tokens, and each of them k masks: 1, or the keyframe's and those of the k - 1 spatial frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from verl_ext.seg.batch import SegBatch, rows_with_dummy, rows_without_dummy
from verl_ext.seg.calibration import TARGET_SIZE, binarise_rollout_mask, mask_log_prob

if TYPE_CHECKING:
    from verl_ext.recipe.objective import CalibrationRecipe

TARGET_PIXELS = TARGET_SIZE * TARGET_SIZE


def mask_terms(
    seg: SegBatch, masks: torch.Tensor, old_target: torch.Tensor | None, settings: CalibrationRecipe
) -> dict[str, torch.Tensor]:
    """``mask_log_prob`` (1 + n), jagged, and ``mask_target`` (1 + n k) * 1024 where ``old_target`` is None.

    Args:
        masks: (M, h, w) logits of all pairs.
        old_target: the ``mask_target`` of the rollout's own pass, at which this one aims; None in that pass.
    """
    out: dict[str, torch.Tensor] = {}
    if settings.frames == "keyframe":
        masks = masks[seg.keyframe_pairs().to(masks.device)]
        drawn = seg.counts
    else:
        drawn = seg.mask_counts().sum(dim=1).tolist()
    if old_target is None:
        target = binarise_rollout_mask(masks, settings.threshold_variant)
        out["mask_target"] = rows_with_dummy(target.to(torch.uint8), drawn)
    else:
        rows = list(rows_without_dummy(old_target, TARGET_PIXELS))
        target = torch.cat(rows).view(-1, TARGET_SIZE, TARGET_SIZE).to(masks.device).bool()
    parts = [masks.new_zeros(0)]
    size = (masks.shape[-2], masks.shape[-1])
    for n, now, then in zip(seg.counts, masks.split(drawn), target.split(drawn), strict=True):
        if n:  # states come one after the other, each with its k masks
            now, then = now.view(n, -1, *size), then.view(n, -1, TARGET_SIZE, TARGET_SIZE)
            parts.append(mask_log_prob(now, then, settings.reduction, settings.topk, settings.weight))
    out["mask_log_prob"] = rows_with_dummy(torch.cat(parts), seg.counts)
    return out
