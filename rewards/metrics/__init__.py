"""Region J, boundary F and the temporal scores. Pure functions on arrays and COCO RLE; values 0..1.

Importing this package is cheap: numba and pycocotools load at the first score.
"""

from __future__ import annotations

from rewards.metrics.jf import ClipScores, jf_masks, jf_rles, score_clip
from rewards.metrics.packing import FrameMask
from rewards.metrics.region import j_visible, pixel_accuracy, robustness
from rewards.metrics.temporal import interval_iou, keyframe_hit, temporal_iou, volumetric_iou

__all__ = [
    "ClipScores",
    "FrameMask",
    "interval_iou",
    "j_visible",
    "jf_masks",
    "jf_rles",
    "keyframe_hit",
    "pixel_accuracy",
    "robustness",
    "score_clip",
    "temporal_iou",
    "volumetric_iou",
]
