"""Region scores from pixel counts. ``overlap`` is (T, 3) int64: intersection, prediction area, ground-truth area."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Overlap = NDArray[np.int64]
Scores = NDArray[np.float64]


def region_j(overlap: Overlap) -> Scores:
    """(T,) intersection over union; 1 where both masks are empty."""
    inter, pred, gt = overlap[:, 0], overlap[:, 1], overlap[:, 2]
    union = pred + gt - inter
    return np.where(union == 0, 1.0, inter / np.maximum(union, 1))


def visible(overlap: Overlap) -> NDArray[np.bool_]:
    """(T,) frames in which ground truth shows."""
    return overlap[:, 2] > 0


def j_visible(j: Scores, gt_visible: NDArray[np.bool_]) -> float | None:
    """Mean J over the frames where ground truth is visible; None for a clip in which it never is.

    "Empty where empty" earns J = 1 for free, so J&F alone flatters a model that predicts nothing.
    """
    seen = np.asarray(gt_visible, dtype=np.bool_)
    return float(np.asarray(j)[seen].mean()) if seen.any() else None


def pixel_accuracy(overlap: Overlap, pixels: int) -> Scores:
    """(T,) ReVOS' A: share of a frame's ``pixels`` on which prediction and ground truth agree."""
    inter, pred, gt = overlap[:, 0], overlap[:, 1], overlap[:, 2]
    return (pixels - (pred + gt - 2 * inter)) / pixels


def robustness(overlap: Overlap, foreground_area: NDArray[np.int64], weight: int = 1) -> Scores:
    """(T,) ReVOS' R = max(0, 1 - weight * |prediction outside ground truth| / |foreground|).

    ``foreground_area`` is (T,) pixels of the data set's own foreground mask. In a frame without any foreground R is
    1 if nothing is predicted outside ground truth, else 0. ``weight`` is the value of the object in the PNGs that the
    official tool is handed, 1 or 255.
    """
    outside = overlap[:, 1] - overlap[:, 0]
    share = weight * outside / np.maximum(foreground_area, 1)
    no_foreground = np.where(outside == 0, 1.0, 0.0)
    return np.where(foreground_area == 0, no_foreground, np.maximum(0.0, 1.0 - share))
