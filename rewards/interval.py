"""Is the target there in the chosen interval: a precision, so short intervals are cheap (SPEC 2.5).

``temporal_iou`` is the measure that also asks for completeness.
"""

from __future__ import annotations

import numpy as np

from rewards.parsing import last_indices
from rewards.registry import register_reward
from rewards.types import RewardInput, Variant


def _precision(hits: int, length: int, variant: Variant) -> float:
    if variant == "intended":
        return hits / length
    # The released code adds 1e-6 to the length, so a precision of exactly one half fails; but in float32, where a
    # length of 32 and more absorbs it.
    return float(np.float32(hits) / (np.float32(length) + np.float32(1e-6)))


@register_reward("interval")
def interval(x: RewardInput, variant: Variant) -> float:
    """-0.5, or 0.5 x precision of [start, end) against existence, for the last turn.

    Indices are clamped to 0..T. -0.5 if they are unreadable, if start >= end or if precision < 0.5. A clip without
    any target gives precision 1.
    """
    indices = last_indices(x.last_text, ("start", "end"), variant)
    if indices is None:
        return -0.5
    start, end = (min(max(i, 0), x.num_frames) for i in indices)
    if start >= end:
        return -0.5
    existence = np.asarray(x.existence)
    precision = _precision(int(existence[start:end].sum()), end - start, variant) if existence.any() else 1.0
    return -0.5 if precision < 0.5 else 0.5 * precision
