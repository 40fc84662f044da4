"""Does the close look give a better mask than the overview (SPEC 2.5)."""

from __future__ import annotations

from rewards.registry import register_reward
from rewards.types import RewardInput, Variant


@register_reward("keyframe_vs_mask", of_masks=True)
def keyframe_vs_mask(x: RewardInput, variant: Variant) -> float:
    """-1..2 from d = keyframe IoU - mean video IoU of the last turn; fewer than two turns: 0.

    d > 0.2: min(5 (d - 0.1), 2); > 0.1: 0.5; > -0.05: 0; else -1. released: every d > 0.1 gives 0.5.
    """
    if len(x.turns) < 2:
        return 0.0
    gain = x.last_keyframe_iou - float(x.last_video_ious.mean())
    if gain > 0.2 and variant == "intended":
        return min(5 * (gain - 0.1), 2.0)
    if gain > 0.1:
        return 0.5
    return 0.0 if gain > -0.05 else -1.0
