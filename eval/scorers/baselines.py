"""What an answer that did not look would score: the figures that J&F must stand beside.

"Empty where empty" counts 1.0, so predicting nothing earns a third of the points on clips whose target comes and goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.metrics.packing import runs
from rollout.types import RLE, Sample

Masklet = Sequence[RLE | None]

CEILING = {"boxes": "ceiling_boxes", "seg": "ceiling_seg"}
"""Kind of true prompt -> the baseline of what the segmenter reaches from it."""
NAMES = {
    "nothing": "predict nothing",
    "full": "whole frame",
    "largest": "largest object (ground-truth mask)",
    CEILING["boxes"]: "ceiling (true boxes)",
    CEILING["seg"]: "ceiling ([SEG])",
}
"""Baseline -> what a table calls it."""


def constant_answers(gt_area: NDArray[np.int64], pixels: int) -> dict[str, float]:
    """J&F in percent of predicting nothing, and the whole frame, in every frame.

    Needs no scoring: neither answer has a boundary, so F is 1 where ground truth has none either (it is empty or
    fills the frame) and 0 elsewhere. ``gt_area`` is (T,) pixels of ground truth in frames of ``pixels`` pixels.
    """
    empty, full = gt_area == 0, gt_area == pixels
    f = (empty | full).astype(np.float64).mean()
    nothing, whole = empty.astype(np.float64).mean(), (gt_area / pixels).mean()
    return {"nothing": 50 * float(nothing + f), "full": 50 * float(whole + f)}


class LargestObjects:
    """The third baseline's prediction: each clip's largest annotated object, with its true mask."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._largest: dict[str, tuple[int, Masklet]] = {}
        for sample in samples:
            masklets = sample.masklets
            for index, masklet in enumerate(masklets.rles if masklets else ()):
                area = sum(_area(rle, f"{sample.id}, object {index}, frame {t}") for t, rle in enumerate(masklet))
                if area > self._largest.get(sample.clip.name, (0, ()))[0]:
                    self._largest[sample.clip.name] = (area, masklet)

    def prediction(self, sample: Sample) -> Masklet:
        """One RLE or None for each of the sample's T frames; areas are summed over frames to find the largest."""
        nothing: list[RLE | None] = [None] * sample.clip.num_frames
        return self._largest.get(sample.clip.name, (0, nothing))[1]


def _area(rle: RLE | None, where: str) -> int:
    if rle is None:
        return 0
    size: Any = rle["size"]
    return int(np.sum(runs(rle, size[0], size[1], where)[1::2]))
