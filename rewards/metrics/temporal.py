"""Scores of *when*: the policy's interval and keyframe, and the masks' own extent in time. Frames count from 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def interval_iou(start: int, end: int, existence: ArrayLike) -> float:
    """IoU of the frames start..end, both included and clamped to the clip, with those where a target is visible.

    ``existence`` is (T,) 0/1. An interval whose end lies before its start holds no frame and scores 0.
    """
    exists = np.asarray(existence, dtype=np.bool_)
    picked = np.zeros_like(exists)
    if end >= start and exists.size:
        last = exists.size - 1
        picked[min(max(start, 0), last) : min(max(end, 0), last) + 1] = True
    union = int((picked | exists).sum())
    return int((picked & exists).sum()) / union if union else 0.0


def keyframe_hit(keyframe: int, existence: ArrayLike) -> float:
    """1.0 if a target is visible at the keyframe, clamped to the clip, else 0.0."""
    exists = np.asarray(existence, dtype=np.bool_)
    return float(exists[min(max(keyframe, 0), exists.size - 1)]) if exists.size else 0.0


def temporal_iou(pred_visible: ArrayLike, gt_visible: ArrayLike) -> float:
    """Long-RVOS' tIoU = |Si| / |Su|: frames where both masks are non-empty over those where either is.

    Su empty (nothing predicted, nothing there) counts 1.
    """
    inter, union = _both(pred_visible, gt_visible)
    return float(inter.sum() / union.sum()) if union.any() else 1.0


def volumetric_iou(j: NDArray[np.float64], pred_visible: ArrayLike, gt_visible: ArrayLike) -> float:
    """Long-RVOS' vIoU = (1 / |Su|) * sum over Si of the frame's IoU; ``j`` is (T,). Su empty counts 1."""
    inter, union = _both(pred_visible, gt_visible)
    return float(np.asarray(j)[inter].sum() / union.sum()) if union.any() else 1.0


def _both(pred_visible: ArrayLike, gt_visible: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    pred, gt = np.asarray(pred_visible, dtype=np.bool_), np.asarray(gt_visible, dtype=np.bool_)
    return pred & gt, pred | gt
