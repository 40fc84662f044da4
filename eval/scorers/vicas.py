"""ViCaS' language-guided segmentation: mean average precision of tracks, J&F of the merged objects beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eval.scorers.base import Case, Scorer
from eval.scorers.registry import register_scorer
from eval.scorers.types import ExpressionScore, GroupScores, Mean
from rewards.metrics import score_clip

THRESHOLDS = [round(0.5 + 0.05 * i, 2) for i in range(10)]
"""IoU at which a predicted track may take a true one."""
SHOWN = {"ap50": 0.5, "ap75": 0.75, "ap90": 0.9}


@register_scorer("vicas")
class ViCaS(Scorer):
    """One track an object, on the frames that people annotated; the tool has no J&F.

    A track's IoU is the sum of its intersections over the sum of its unions, 0 where both are empty throughout. All
    predicted tracks have the same confidence: they stay in order of videos (by id), prompts and tracks.
    """

    headline: ClassVar[str] = "map"

    @property
    def ours(self) -> tuple[str, ...]:
        return ("jf", "j", "f")

    @property
    def note(self) -> str:
        return "track mAP at IoU 0.50:0.05:0.95 on human-annotated frames is the tool's; it has no J&F"

    def tracks(self, case: Case) -> list[list[float]]:
        """IoU of each predicted track (row) with each object of the prompt (column)."""
        masklets, size = case.sample.masklets, (case.sample.clip.height, case.sample.clip.width)
        frames = range(case.sample.clip.num_frames) if case.annotated is None else case.annotated
        true = [] if masklets is None else [[track[t] for t in frames] for track in masklets.rles]
        ious = []
        for track in case.objects:
            predicted = [track[t] for t in frames]
            pixels = [score_clip(predicted, t, size, case.sample.id).overlap.sum(axis=0).tolist() for t in true]
            ious.append([inter / (pred + gt - inter) if inter else 0.0 for inter, pred, gt in pixels])
        return ious

    def group(self, name: str, rows: Sequence[ExpressionScore]) -> GroupScores:
        found = super().group(name, rows)
        ordered = sorted(rows, key=lambda row: row.clip)
        precision = {at: 100 * average_precision(ordered, at) for at in THRESHOLDS}
        mean = float(np.mean(list(precision.values())))
        shown = {"map": mean, **{metric: precision[at] for metric, at in SHOWN.items()}}
        return replace(found, metrics={**{m: Mean(v, None, len(rows)) for m, v in shown.items()}, **found.metrics})


def average_precision(rows: Sequence[ExpressionScore], threshold: float) -> float:
    """Area under precision over recall, 0..1, of the tracks in order; precision made monotone from the right."""
    hits = [hit for row in rows for hit in _hits(row.tracks or [], threshold)]
    objects = sum(row.objects for row in rows)
    if not hits or not objects:
        return 0.0
    found: NDArray[np.float64] = np.cumsum(hits, dtype=np.float64)
    precision = found / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(found, prepend=0.0) / objects * precision).sum())


def _hits(ious: Sequence[Sequence[float]], threshold: float) -> list[bool]:
    """Whether each predicted track of a prompt takes an object that is still free: of several the last one."""
    free = set(range(len(ious[0]))) if ious else set()
    out = []
    for row in ious:
        fits = [g for g in free if row[g] >= threshold]
        out.append(bool(fits))
        free -= {max(fits)} if fits else set()
    return out
