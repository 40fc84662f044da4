"""True temporal IoU of the chosen interval: a one-frame interval no longer earns full marks."""

from __future__ import annotations

import numpy as np

from rewards.parsing import last_indices
from rewards.registry import register_reward
from rewards.types import RewardInput, Variant


@register_reward("temporal_iou")
def temporal_iou(x: RewardInput, variant: Variant) -> float:
    """0..1: frames in both [start, end] and existence / frames in either, for the last turn; not in the papers.

    Both ends belong to the interval, as when its frames are sampled; indices are clamped to 0..T-1. 0 if they are
    unreadable, if end < start, or if the clip shows no target (then no interval is right).
    """
    indices = last_indices(x.last_text, ("start", "end"), variant)
    if indices is None:
        return 0.0
    start, end = (min(max(i, 0), x.num_frames - 1) for i in indices)
    if end < start:
        return 0.0
    existence = np.asarray(x.existence) > 0
    chosen = np.zeros_like(existence)
    chosen[start : end + 1] = True
    return float((chosen & existence).sum() / (chosen | existence).sum())
