"""Ref-DAVIS17: each sentence an expression of its own, and beside it the DAVIS challenge's protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eval.scorers.base import Labels, Scorer
from eval.scorers.registry import register_scorer
from rewards.metrics import jf_masks
from rewards.metrics.packing import runs
from rollout.types import RLE, Sample

ANNOTATORS = 4
VOID = 255
CHUNK = 16
"""Frames decoded at a time."""


@register_scorer("davis")
class RefDAVIS17(Scorer):
    """J and F by expression are what the papers print. ``davis_*`` are the DAVIS tool's: an annotator's objects are
    painted into one label image (the lower object wins), labels are matched to true objects by the Hungarian method,
    void is taken out, objects that the first frame does not show do not count; the mean is that of four annotators.
    """

    extra: ClassVar[tuple[str, ...]] = ("davis_jf", "davis_j", "davis_f")
    takes_whole_clips: ClassVar[bool] = True

    @property
    def note(self) -> str:
        return (
            "J&F by expression, as the papers have it; DAVIS J&F by the challenge's protocol, mean of four annotators"
        )

    def together(
        self, samples: Sequence[Sample], predictions: Mapping[str, Sequence[RLE | None]], labels: Labels
    ) -> dict[str, dict[str, float | None]]:
        """Expressions 4k .. 4k + 3 are the four annotators' of object k + 1; nothing for clips of another form."""
        ordered = sorted(samples, key=lambda s: (not s.expression.id.isdigit(), s.expression.id.zfill(9)))
        first = labels(0) if ordered and len(ordered) % ANNOTATORS == 0 else None
        if first is None:
            return {}
        true = int(np.where(first == VOID, 0, first).max())
        objects, frames = len(ordered) // ANNOTATORS, samples[0].clip.num_frames
        masks = [predictions.get(s.expression.id) or [None] * frames for s in ordered]
        if true > objects:  # one that no sentence means would count 0, and has no row to do so
            return {}
        sums = np.zeros((ANNOTATORS, objects, true, 2))
        for start in range(0, frames, CHUNK):
            part = range(start, min(start + CHUNK, frames))
            values = np.stack([np.asarray(labels(t)) for t in part])
            for annotator in range(ANNOTATORS):
                painted = _painted(masks[annotator::ANNOTATORS], part, values.shape)
                painted[values == VOID] = 0
                for label, g in np.ndindex(objects, true):
                    j, f = jf_masks(painted == label + 1, values == g + 1)
                    sums[annotator, label, g] += j.sum(), f.sum()
        return _by_expression(ordered, sums / frames)


def _painted(masks: Sequence[Sequence[RLE | None]], frames: range, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """(n, H, W) labels from 1; the lower object wins. Raises DataError for an RLE that misfits."""
    out = np.zeros(shape, np.uint8)
    height, width = shape[1:]
    for label in range(len(masks), 0, -1):
        for i, t in enumerate(frames):
            rle = masks[label - 1][t]
            if rle is not None:
                counts = runs(rle, height, width, f"prediction, frame {t}")
                columns = np.repeat(np.arange(len(counts)) % 2, counts).reshape(width, height)
                out[i][columns.T == 1] = label
    return out


def _by_expression(ordered: Sequence[Sample], means: NDArray[np.float64]) -> dict[str, dict[str, float | None]]:
    """``means`` is (annotator, label, true object, J and F); a label without a true object has no scores."""
    from scipy.optimize import linear_sum_assignment

    out: dict[str, dict[str, float | None]] = {}
    for annotator, found in enumerate(means):
        taken = dict(zip(*(side.tolist() for side in linear_sum_assignment(-found.mean(axis=-1))), strict=True))
        for label in range(len(found)):
            j, f = found[label, taken[label]].tolist() if label in taken else (None, None)
            eid = ordered[ANNOTATORS * label + annotator].expression.id
            out[eid] = {"davis_jf": None if j is None else (j + f) / 2, "davis_j": j, "davis_f": f}
    return out
