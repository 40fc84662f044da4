"""Does the chosen keyframe show much of the target (SPEC 3)."""

from __future__ import annotations

from rewards.registry import register_reward
from rewards.types import BoxRewardInput, Variant
from rewards.veason.reply import chosen_position, read_reply


@register_reward("veason_keyframe", on=BoxRewardInput)
def veason_keyframe(x: BoxRewardInput, variant: Variant) -> float:
    """0..1: mask area at the chosen frame / largest area over the sampled frames.

    0 if the timestamp is unreadable or not one of the sampled, or if no sampled frame shows the target.
    """
    frame = chosen_position(read_reply(x.text, variant), x.timestamps, variant)
    largest = max(x.areas)
    return float(x.areas[frame] / largest) if frame is not None and largest > 0 else 0.0
