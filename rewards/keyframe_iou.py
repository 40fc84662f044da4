"""How well the last turn's mask fits on its keyframe (SPEC 2.5, offered beside the seven)."""

from __future__ import annotations

from rewards.registry import register_reward
from rewards.types import RewardInput, Variant


@register_reward("keyframe_iou", of_masks=True)
def keyframe_iou(x: RewardInput, variant: Variant) -> float:
    """-1..2.5: IoU > 0.4: min(5 (IoU - 0.4), 2.5); > 0.2: 0; else -1. Both variants agree."""
    iou = x.last_keyframe_iou
    if iou > 0.4:
        return min(5 * (iou - 0.4), 2.5)
    return 0.0 if iou > 0.2 else -1.0
