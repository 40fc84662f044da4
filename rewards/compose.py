"""Several rewards and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rewards.registry import get_reward
from rewards.types import AnyRewardInput, Variant
from rollout.errors import RecipeError

VIDEOSEG_O3_REWARDS = (
    "strict_format",
    "step_format",
    "interval",
    "keyframe_hit",
    "mask_iou",
    "keyframe_vs_mask",
    "progressive_keyframe",
)
"""The seven that the VideoSEG-O3 recipe sums with equal weights (SPEC 2.5)."""

VEASON_REWARDS = ("veason_format", "veason_keyframe", "veason_spatial", "veason_consistency")
"""The four that the Veason-R1 recipe sums (SPEC 3)."""


def compute_rewards(
    x: AnyRewardInput,
    names_or_weights: Mapping[str, float] | Iterable[str],
    variant: Variant = "intended",
) -> dict[str, float]:
    """Each reward's own value, unweighted, and ``total``: the sum of weight x value.

    A plain list of names weighs each 1. Raises RecipeError for no reward, an unknown name or a weight that is not
    finite. Nothing in the policy's text can make this raise.
    """
    weights = (
        dict(names_or_weights)
        if isinstance(names_or_weights, Mapping)
        else dict.fromkeys([names_or_weights] if isinstance(names_or_weights, str) else names_or_weights, 1.0)
    )
    if not weights:
        raise RecipeError("no rewards given; name at least one, see rewards.reward_names()")
    if variant not in ("intended", "released"):
        raise RecipeError(f"reward variant {variant!r} is unknown; use 'intended' or 'released'")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise RecipeError(f"reward {name!r} has weight {weight}; give a finite number")
    values = {name: get_reward(name)(x, variant) for name in weights}
    values["total"] = sum(weights[name] * value for name, value in values.items())
    return values
