"""What an answer that did not look would score: the figures that J&F must stand beside.

"Empty where empty" counts 1.0, so predicting nothing earns a third of the points on clips whose target comes and goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from eval.metrics.packing import runs
from rollout.types import RLE, Sample

Masklet = Sequence[RLE | None]

NAMES = {"nothing": "predict nothing", "full": "whole frame", "largest": "largest object (ground-truth mask)"}
"""Baseline -> what a table calls it."""


class Baselines:
    """The baselines' predictions for the expressions of a set of samples."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._largest: dict[str, tuple[int, Masklet]] = {}
        for sample in samples:
            masklets = sample.masklets
            for index, masklet in enumerate(masklets.rles if masklets else ()):
                area = sum(_area(rle, f"{sample.id}, object {index}, frame {t}") for t, rle in enumerate(masklet))
                if area > self._largest.get(sample.clip.name, (0, ()))[0]:
                    self._largest[sample.clip.name] = (area, masklet)

    def predictions(self, sample: Sample) -> dict[str, Masklet]:
        """Baseline name -> one RLE or None for each of the sample's T frames.

        *largest* is the clip's largest annotated object, its area summed over frames, with its true mask.
        """
        frames = sample.clip.num_frames
        nothing: list[RLE | None] = [None] * frames
        full = full_frame(sample.clip.height, sample.clip.width)
        _, largest = self._largest.get(sample.clip.name, (0, nothing))
        return {"nothing": nothing, "full": [full] * frames, "largest": largest}


def full_frame(height: int, width: int) -> RLE:
    """The RLE that covers every pixel: no zeros, then all ones."""
    return {"size": [height, width], "counts": [0, height * width]}


def _area(rle: RLE | None, where: str) -> int:
    if rle is None:
        return 0
    size: Any = rle["size"]
    return int(np.sum(runs(rle, size[0], size[1], where)[1::2]))
