"""How well the last turn's mask fits on the spatial frames (SPEC 2.5)."""

from __future__ import annotations

from rewards.registry import register_reward
from rewards.types import RewardInput, Variant

FULL_STEP = 1.5
"""What a perfect mask earns."""


def iou_step(iou: float) -> float:
    """-1 for a miss (IoU <= 0.2), 0 up to 0.4, then a ramp of slope 3 that ends at 1.5."""
    if iou > 0.4:
        return min(3 * (iou - 0.4), FULL_STEP)
    return 0.0 if iou > 0.2 else -1.0


@register_reward("mask_iou", of_masks=True)
def mask_iou(x: RewardInput, variant: Variant) -> float:
    """-1..1.5: mean over the spatial frames of ``iou_step``. Both variants agree."""
    ious = x.last_video_ious
    return sum(iou_step(float(iou)) for iou in ious) / len(ious)
