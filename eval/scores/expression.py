"""One expression: prediction against ground truth, to one row of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.results.record import ResultRecord
from eval.results.unreadable import why_unreadable
from eval.scorers.base import Case, Scorer
from eval.scorers.baselines import Masklet, constant_answers
from eval.scorers.types import ExpressionScore
from rewards.metrics import ClipScores, FrameMask, interval_iou, j_visible, keyframe_hit, score_clip
from rollout.errors import DataError
from rollout.types import RLE, Expression, Sample

TEMPORAL = ("j_visible", "interval_iou", "keyframe_hit")
"""Scores that an expression without a visible target cannot have: None there."""


def score_expression(
    sample: Sample,
    record: ResultRecord | None,
    scorer: Scorer,
    *,
    foreground_area: NDArray[np.int64] | None = None,
    scored: Sequence[int] | None = None,
    annotated: tuple[int, ...] | None = None,
    together: Mapping[str, float | None] | None = None,
    largest: Masklet | None = None,
    exact: bool = False,
) -> ExpressionScore:
    """One row; ``record`` None is a missing prediction, and one whose dialogue could not begin has failed: both are 0.

    Args:
        foreground_area: (T,) pixels, for scorers that need it.
        scored: frames that count, perhaps more than once; None: all.
        annotated: frames whose masks people drew; None: all.
        together: metrics, 0..1, that were made of all of the clip's expressions.
        largest: the prediction of the third baseline, scored beside.
        exact: keep every digit where the scorer rounds.

    Raises:
        DataError: a sample without ground truth, or a prediction of another size or that does not decode.
    """
    together = together or {}
    gt, size = ground_truth(sample), (sample.clip.height, sample.clip.width)
    failed = record is not None and record.failed
    nothing: Sequence[RLE | None] = [None] * len(gt)
    # A failed record is scored too, though nothing of it counts: its masks must decode all the same.
    whole = score_clip(nothing if record is None else record.prediction, gt, size, sample.id)
    masks, exists = _counted(whole, scored), whole.gt_visible
    values = zero_values(sample.expression, scorer)
    values |= {name: None for name, value in together.items() if value is None}
    values |= dict.fromkeys(TEMPORAL, 0.0 if exists.any() else None)
    tracks = None
    if record is not None and not failed:
        case = Case(sample, masks, foreground_area, record.tracks, annotated)
        values |= _values(case, scorer, together, exact)
        tracks = scorer.tracks(case)
        if exists.any():
            values |= _grounding_values(record, _wanted_frames(sample, exists))
    baselines = constant_answers(masks.overlap[:, 2], size[0] * size[1])
    if largest is not None:
        baselines["largest"] = _jf(score_clip(largest, gt, size, f"{sample.id}, baseline largest"))
    return row_of(
        sample.clip.name,
        sample.expression,
        scorer,
        values,
        frames=sample.clip.num_frames,
        visible_frames=int(exists.sum()),
        missing=record is None,
        failed=failed,
        baselines=baselines,
        tracks=tracks,
        unreadable="" if record is None else why_unreadable(record),
    )


def _wanted_frames(sample: Sample, exists: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(T,) where the target is visible; those in which it can be told from others, where the data set says so."""
    if not sample.expression.legible:
        return exists
    legible = np.zeros_like(exists)
    legible[list(sample.expression.legible)] = True
    return legible


def zero_values(expression: Expression, scorer: Scorer) -> dict[str, float | None]:
    """Of an expression that nothing can be given for."""
    return {**dict.fromkeys(("jf", "j", "f"), 0.0), **dict.fromkeys(TEMPORAL), **scorer.zeros(expression)}


def row_of(
    clip: str, expression: Expression, scorer: Scorer, values: Mapping[str, float | None], **more: Any
) -> ExpressionScore:
    """``values``: every score in percent, by name; ``more``: other fields of the row."""
    fields: dict[str, Any] = {
        "clip": clip,
        "expression_id": expression.id,
        "text": expression.text,
        "kind": expression.kind,
        "type_id": expression.type_id,
        "objects": len(expression.anno_ids),
        "extra": {name: values[name] for name in scorer.extra},
        **{name: value for name, value in values.items() if name not in scorer.extra},
        **more,
    }
    return ExpressionScore(**fields)


def _counted(masks: ClipScores, frames: Sequence[int] | None) -> ClipScores:
    if frames is None:
        return masks
    keep = list(frames)
    return ClipScores(masks.j[keep], masks.f[keep], masks.overlap[keep])


def ground_truth(sample: Sample) -> list[FrameMask]:
    """Per frame, the RLEs of all objects of the expression. Raises DataError if the sample has no ground truth."""
    masklets = sample.masklets
    if masklets is None:
        raise DataError(f"{sample.id}: no ground truth, cannot be scored")
    return [[masklet[t] for masklet in masklets.rles] for t in range(sample.clip.num_frames)]


def check_fit(record: ResultRecord, sample: Sample) -> None:
    """Raise DataError if a prediction was made for another text, another number of frames or another frame size."""
    clip, text = sample.clip, sample.expression.text
    if record.text.split() != text.split():
        raise DataError(
            f"{record.name}: predicted for {record.text!r}, the benchmark asks {text!r}; results of another benchmark?"
        )
    found = (record.num_frames, record.height, record.width)
    if found != (clip.num_frames, clip.height, clip.width):
        raise DataError(
            f"{record.name}: predicted on {found[0]} frames of {found[1]}x{found[2]} (height x width), "
            f"the clip has {clip.num_frames} of {clip.height}x{clip.width}"
        )


def _grounding_values(record: ResultRecord, exists: NDArray[np.bool_]) -> dict[str, float | None]:
    """By the last turn; what does not parse scores 0. An answer of boxes has a keyframe and no interval."""
    turn, found = record.standing or record.turns[-1], dict[str, float | None]()
    if turn.grounding is not None:
        found["interval_iou"] = 100 * interval_iou(turn.grounding.start, turn.grounding.end, exists)
    elif turn.has_boxes:
        found["interval_iou"] = None
    if turn.chosen is not None:
        found["keyframe_hit"] = 100 * keyframe_hit(turn.chosen, exists)
    return found


def _values(case: Case, scorer: Scorer, together: Mapping[str, float | None], exact: bool) -> dict[str, float | None]:
    masks = case.masks
    j, f = float(masks.j.mean()), float(masks.f.mean())
    values: dict[str, float | None] = {"jf": _jf(masks), "j": 100 * j, "f": 100 * f}
    added = {**scorer.extras(case), **together}
    values |= {name: None if value is None else 100 * value for name, value in added.items()}
    if scorer.decimals is not None and not exact:  # as NumPy rounds, which Python's own does not always
        rounded = {n: float(np.round(v, scorer.decimals)) for n, v in values.items() if v is not None}
        values |= rounded
    visible = j_visible(masks.j, masks.gt_visible)
    return {**values, "j_visible": None if visible is None else 100 * visible}


def _jf(masks: ClipScores) -> float:
    return 50 * (float(masks.j.mean()) + float(masks.f.mean()))
