"""Did the policy do right by its own masks once it had seen them (`rollout.verification`)."""

from __future__ import annotations

import numpy as np

from rewards.propagated import BOTH
from rewards.registry import register_reward
from rewards.types import BoxRewardInput, PropagatedScores, RewardInput, Variant
from rollout.errors import ProtocolError
from rollout.types import Verdict

SAME = 0.02
"""Of J&F: a smaller change is none."""
SLOPE = 2.0
GOOD, RIGHT_TO_KEEP = 0.7, 0.25


@register_reward("verification_change", on=BOTH, propagated=True)
def verification_change(x: RewardInput | BoxRewardInput, variant: Variant) -> float:
    """-1..1, by d = J&F of the answer that stands - J&F of the first one; not in the papers, both variants agree.

    Better (d > 0.02): min(2 d, 1). Worse (d < -0.02): max(2 d, -1). Kept: 0.25 if the first one's J&F is at least 0.7,
    else 0, so that confirming a bad mask earns nothing. A verdict that cannot be read: -1. No verification turn (the
    dialogue ended otherwise, or the turn did not fit): 0.
    """
    if x.propagated is None or x.verification is None:
        raise ProtocolError("reward 'verification_change' needs both answers' masks after propagation")
    verdict, first = x.verification.verdict, jf(x.verification.first)
    if verdict is None:
        return 0.0
    if verdict is Verdict.UNREAD:
        return -1.0
    change = jf(x.propagated) - first
    if abs(change) <= SAME:
        return RIGHT_TO_KEEP if first >= GOOD else 0.0
    return float(np.clip(SLOPE * change, -1.0, 1.0))


def jf(scores: PropagatedScores) -> float:
    """J&F over the judged frames; 0 without any."""
    return float(np.mean([scores.j, scores.f])) if len(scores.j) else 0.0
