"""Scores beside J and F, on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rewards.metrics import (
    interval_iou,
    j_visible,
    keyframe_hit,
    pixel_accuracy,
    robustness,
    score_clip,
    temporal_iou,
    volumetric_iou,
)
from tests.eval.clips import disk, rle

EXISTS = [0, 0, 1, 1, 1, 0]


def test_overlap_counts_pixels() -> None:
    a, b = disk(20, 20, 9), disk(26, 20, 9)
    scores = score_clip([rle(a), None], [rle(b), None])
    assert scores.overlap.tolist() == [[(a & b).sum(), a.sum(), b.sum()], [0, 0, 0]]
    assert scores.gt_visible.tolist() == [True, False] == scores.pred_visible.tolist()


def test_j_on_visible_frames_ignores_free_points() -> None:
    assert j_visible(np.array([1.0, 0.5, 0.1]), np.array([False, True, True])) == pytest.approx(0.3)
    assert j_visible(np.ones(3), np.zeros(3, bool)) is None


def test_accuracy_and_robustness() -> None:
    overlap = np.array([[10, 15, 12], [0, 0, 0], [0, 3, 0], [0, 99, 0]])
    assert pixel_accuracy(overlap, 100).tolist() == [0.93, 1.0, 0.97, 0.01]
    # 5 of 20 foreground pixels outside; no foreground and nothing predicted; the same but something predicted; clipped
    assert robustness(overlap, np.array([20, 0, 0, 50])).tolist() == [0.75, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(2, 4, 1.0), (2, 2, 1 / 3), (0, 5, 0.5), (-9, 99, 0.5), (4, 2, 0.0), (0, 1, 0.0), (3, 5, 0.5)],
)
def test_interval_iou_includes_both_ends(start: int, end: int, expected: float) -> None:
    assert interval_iou(start, end, EXISTS) == pytest.approx(expected)


def test_interval_of_an_absent_target_scores_zero() -> None:
    assert interval_iou(0, 3, np.zeros(4)) == 0.0
    assert interval_iou(0, 3, []) == 0.0


@pytest.mark.parametrize(("keyframe", "expected"), [(2, 1.0), (1, 0.0), (99, 0.0), (-3, 0.0)])
def test_keyframe_hit_clamps(keyframe: int, expected: float) -> None:
    assert keyframe_hit(keyframe, EXISTS) == expected


def test_long_rvos_overlaps() -> None:
    pred, gt = np.array([1, 1, 1, 0]), np.array([0, 1, 1, 0])
    assert temporal_iou(pred, gt) == pytest.approx(2 / 3)
    assert volumetric_iou(np.array([0.0, 0.6, 0.9, 1.0]), pred, gt) == pytest.approx(0.5)
    assert temporal_iou(pred * 0, gt * 0) == volumetric_iou(np.ones(4), pred * 0, gt * 0) == 1.0
