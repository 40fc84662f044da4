"""Do the boxes, propagated by SAM 2, give the right masks in the other frames (SPEC 3)."""

from __future__ import annotations

import numpy as np

from rewards.registry import register_reward
from rewards.types import BoxRewardInput, Variant
from rewards.veason.matching import match
from rollout.errors import ProtocolError


@register_reward("veason_consistency", on=BoxRewardInput)
def veason_consistency(x: BoxRewardInput, variant: Variant) -> float:
    """0..1: mean over the sampled frames of IoU(SAM 2 mask, ground truth).

    0 if there was no box to prompt SAM 2 with. intended: 1 if that was right, because no box was predicted and the
    target is in none of the sampled frames. Raises ProtocolError if there was one but ``frame_ious`` is missing.
    """
    found = match(x, variant)
    if found is None:
        return 0.0
    if not found.boxes:
        return 1.0 if found.spatial == 1.0 and max(x.areas) == 0 else 0.0
    if x.frame_ious is None:
        raise ProtocolError(
            "reward 'veason_consistency': the reply has boxes to propagate but frame_ious is None; "
            "prompt SAM 2 with rewards.veason.matched_boxes(x) first"
        )
    return float(np.mean(np.asarray(x.frame_ious, dtype=np.float64)))
