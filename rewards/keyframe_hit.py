"""Is the target visible in the chosen keyframe (SPEC 2.5)."""

from __future__ import annotations

from rewards.parsing import last_indices
from rewards.registry import register_reward
from rewards.types import RewardInput, Variant


@register_reward("keyframe_hit")
def keyframe_hit(x: RewardInput, variant: Variant) -> float:
    """+1 if the target exists at the last turn's keyframe, clamped to 0..T-1; else, or if unreadable, -1."""
    indices = last_indices(x.last_text, ("keyframe",), variant)
    if indices is None:
        return -1.0
    keyframe = min(max(indices[0], 0), x.num_frames - 1)
    return 1.0 if x.existence[keyframe] else -1.0
