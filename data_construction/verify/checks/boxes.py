"""Do the boxes fit the objects (Veason-R1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_construction.traces import BOXES
from data_construction.verify.case import Case
from data_construction.verify.registry import register_check
from rollout.box_protocol import read_box_reply
from rollout.types import Masklets


@register_check("boxes", methods=(BOXES,))
def boxes(case: Case) -> str | None:
    """as many boxes as visible objects, each matched with enough IoU at the chosen keyframe"""
    answer, masklets = case.box_turn.answer, case.sample.masklets
    if answer is None or masklets is None or answer.keyframe_timestamp not in case.timestamps:
        return None  # the checks before this one say so
    frame = case.trace.frames[case.timestamps.index(answer.keyframe_timestamp)]
    if not 0 <= frame < case.num_frames:
        return None
    truth = object_boxes(masklets, frame, case.side)
    written = read_box_reply(case.trace.replies[0]) if case.trace.replies else None
    listed: Sequence[object] = answer.boxes  # what is drawn, where a box that stands there twice counts once
    if written is not None and written.boxes is not None:
        listed = written.boxes
    if len(listed) != len(truth) or len(answer.boxes) != len(truth):
        return f"{len(listed)} boxes for {len(truth)} visible objects in frame {frame}"
    if not len(truth):
        return None
    from scipy.optimize import linear_sum_assignment

    ious = box_ious(np.array(answer.boxes), truth)
    rows, columns = linear_sum_assignment(-ious)
    lowest = float(ious[rows, columns].min())
    if lowest < case.settings.box_iou:
        return f"a box has IoU {lowest:.2f} with its object in frame {frame}; wants {case.settings.box_iou}"
    return None


def object_boxes(masklets: Masklets, frame: int, side: int) -> NDArray[np.float64]:
    """(O, 4) tight boxes x1, y1, x2, y2 of the visible objects in pixels of a ``side`` x ``side`` frame (SPEC 3)."""
    from data_construction.cot.runs import boxes_at

    scale = np.array([side / masklets.width, side / masklets.height] * 2)
    return np.floor(np.array(boxes_at(masklets, frame), dtype=np.float64).reshape(-1, 4) * scale + 0.5)


def box_ious(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(A, B) IoU with the inclusive-pixel convention; an inverted box has 0 with everything."""
    with np.errstate(all="ignore"):  # absurd coordinates overflow to an infinite area, an IoU of 0
        low = np.maximum(a[:, None, :2], b[None, :, :2])
        high = np.minimum(a[:, None, 2:], b[None, :, 2:])
        intersection = np.maximum(high - low + 1, 0).prod(axis=-1)
        areas = [np.maximum(x[:, 2:] - x[:, :2] + 1, 0).prod(axis=-1) for x in (a, b)]
        ious = intersection / (areas[0][:, None] + areas[1][None] - intersection)
    return np.asarray(np.where(np.isfinite(ious), ious, 0.0))
