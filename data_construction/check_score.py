"""Ground truth scored against itself: J&F must be exactly 1, or masks and frames do not mean what the reader thinks."""

from __future__ import annotations

import numpy as np

from rollout.types import RLE, Masklets, Sample


def self_score(sample: Sample) -> float | None:
    """Mean J&F over the frames of a sample's ground truth against itself; None without masks.

    The one side is what the files hold, object by object; the other is their union, decoded and encoded once more.
    """
    truth = sample.masklets
    if truth is None:
        return None
    from rewards.metrics import score_clip

    held = [[o[t] for o in truth.rles if o[t] is not None] or None for t in range(truth.num_frames)]
    again = [_encoded(truth, t) for t in range(truth.num_frames)]
    scores = score_clip(again, held, (truth.height, truth.width), f"clip {sample.clip.name}")
    return float((scores.j.mean() + scores.f.mean()) / 2)


def _encoded(truth: Masklets, frame: int) -> RLE | None:
    from pycocotools import mask as coco_mask

    union = truth.union(frame)
    rle: RLE = coco_mask.encode(np.asfortranarray(union.astype(np.uint8)))
    return rle if union.any() else None
