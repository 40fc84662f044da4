"""Do the boxes fit the objects on the chosen keyframe (SPEC 3)."""

from __future__ import annotations

from rewards.registry import register_reward
from rewards.types import BoxRewardInput, Variant
from rewards.veason.matching import match


@register_reward("veason_spatial", on=BoxRewardInput)
def veason_spatial(x: BoxRewardInput, variant: Variant) -> float:
    """0..1: sum of matched IoU / max(#predicted, #objects); ``rewards.veason.matching.match`` says how both count."""
    found = match(x, variant)
    return found.spatial if found is not None else 0.0
