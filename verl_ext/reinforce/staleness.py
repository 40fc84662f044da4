"""How much older than the weights that learn from it a batch's dialogues are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def staleness_metrics(tags: Sequence[Mapping[str, Any]], step: int) -> dict[str, float]:
    """Of verl's tags of a batch but for copies that fill it up. Version s of the weights is what step s leaves.

    rollout/staleness_mean and _max: steps between the oldest weights that a dialogue was rolled out by and those that
    learn from it in ``step`` (0 is on-policy). rollout/mixed_share: of the dialogues that saw weights change.
    """
    tags = [tag for tag in tags if not tag.get("is_padding", False)]
    if not tags:
        return {}
    fresh = step - 1
    begun = [int(tag.get("min_global_steps", fresh)) for tag in tags]
    lags = [fresh - version for version in begun]
    mixed = sum(int(tag.get("max_global_steps", fresh)) > first for tag, first in zip(tags, begun, strict=True))
    return {
        "rollout/staleness_mean": sum(lags) / len(lags),
        "rollout/staleness_max": float(max(lags)),
        "rollout/mixed_share": mixed / len(lags),
    }
