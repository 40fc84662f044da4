"""Match predicted to ground-truth boxes on the chosen keyframe. P predicted boxes, O objects, all in prompt pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from rewards.types import Box, BoxRewardInput, Variant
from rewards.veason.reply import chosen_position, read_reply, usable_box


def box_ious(predicted: Sequence[Box], truth: Sequence[Box]) -> NDArray[np.float64]:
    """(P, O) IoU with the inclusive-pixel convention: a box from 3 to 5 is 3 pixels wide.

    NaN where the union is zero, which only an inverted box can bring about.
    """
    a = np.asarray(predicted, dtype=np.float64).reshape(-1, 1, 4)
    b = np.asarray(truth, dtype=np.float64).reshape(1, -1, 4)
    with np.errstate(all="ignore"):  # absurd coordinates may overflow to an infinite area, an IoU of 0
        sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
        intersection = np.maximum(sides, 0).prod(axis=-1)
        union = (a[..., 2:] - a[..., :2] + 1).prod(axis=-1) + (b[..., 2:] - b[..., :2] + 1).prod(axis=-1)
        return np.asarray(intersection / (union - intersection))


@dataclass(frozen=True)
class Match:
    """What the matching leaves: the boxes that found an object, in the order predicted, and the spatial score."""

    boxes: tuple[Box, ...]
    spatial: float
    """0..1: sum of matched IoU / max(P, O)."""


def match(x: BoxRewardInput, variant: Variant) -> Match | None:
    """Hungarian matching on 1 - IoU at the chosen keyframe; None if the reply gives nothing to match.

    released: a single malformed box, or an empty list, gives None; objects absent from the keyframe count as boxes
    ``[0, 0, 0, 0]`` that can be hit.
    intended: malformed and inverted boxes find no object but still count in P; absent objects are left out. None
    only without an answer, a sampled timestamp or a list of boxes. No boxes for a keyframe without objects is right:
    spatial 1.
    """
    reply = read_reply(x.text, variant)
    frame = chosen_position(reply, x.timestamps, variant)
    if reply is None or frame is None or reply.boxes is None:
        return None
    boxes = [usable_box(value, variant) for value in reply.candidates]
    usable = [box for box in boxes if box is not None]
    truth: list[Box] = [(b[0], b[1], b[2], b[3]) for b in x.gt_boxes[frame] if variant == "released" or any(b)]
    if variant == "released" and (not usable or not truth or len(usable) < len(boxes)):
        return None
    if not usable or not truth:
        return Match((), 1.0 if not boxes and not truth else 0.0)
    ious = box_ious(usable, truth)
    if not np.isfinite(ious).all():  # only inverted boxes, which only the released rule lets through
        return None
    rows, columns = linear_sum_assignment(1.0 - ious)
    return Match(tuple(usable[r] for r in rows), float(ious[rows, columns].sum()) / max(len(boxes), len(truth)))


def matched_boxes(x: BoxRewardInput, variant: Variant = "intended") -> list[Box] | None:
    """The boxes to prompt SAM 2 with on the chosen keyframe, one object each, in prompt pixels.

    None if there is nothing to ask; ``veason_consistency`` then needs no ``frame_ious``.
    """
    found = match(x, variant)
    return list(found.boxes) if found is not None and found.boxes else None
