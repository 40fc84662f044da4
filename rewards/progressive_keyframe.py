"""Does looking again improve the keyframe mask (SPEC 2.5)."""

from __future__ import annotations

from rewards.registry import register_reward
from rewards.types import RewardInput, Variant


@register_reward("progressive_keyframe", of_masks=True)
def progressive_keyframe(x: RewardInput, variant: Variant) -> float:
    """-1..2 from d = last keyframe IoU - best earlier one; fewer than two turns: 0.

    d > 0.1: min(10 (d - 0.05), 2); > 0.05: 0.5; > -0.05: 0; else -1. released: every d > 0.05 gives 0.5.
    """
    if len(x.turns) < 2:
        return 0.0
    gain = x.last_keyframe_iou - max(float(iou) for iou in x.keyframe_ious[:-1])
    if gain > 0.1 and variant == "intended":
        return min(10 * (gain - 0.05), 2.0)
    if gain > 0.05:
        return 0.5
    return 0.0 if gain > -0.05 else -1.0
