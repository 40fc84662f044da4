"""An oracle's answers against ground truth, and their mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewards.metrics import score_clip
from rollout.types import RLE, Masklets


def jf_of(prediction: Sequence[RLE | None], masklets: Masklets, target: int, clip: str) -> float:
    """J&F in percent, over all frames, of a prediction for object ``target`` of a clip's masklets."""
    scores = score_clip(prediction, masklets.rles[target], (masklets.height, masklets.width), clip)
    return float(50 * (scores.j.mean() + scores.f.mean()))


def figures(rows: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """``jf``, its standard error ``se``, and ``right``, of (J&F, whether it was the object asked for) by expression."""
    values = np.array([value for value, _ in rows])
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    right = float(np.mean([r for _, r in rows]))
    return {"jf": round(float(values.mean()), 2), "se": round(error, 2), "right": round(right, 4)}
