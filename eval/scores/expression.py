"""One expression: prediction against ground truth, to one row of the scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eval.results.record import ResultRecord
from eval.scorers.base import Case, Scorer
from eval.scorers.baselines import Masklet, constant_answers
from eval.scorers.types import ExpressionScore
from rewards.metrics import ClipScores, FrameMask, interval_iou, j_visible, keyframe_hit, score_clip
from rollout.errors import DataError
from rollout.types import RLE, Sample

TEMPORAL = ("j_visible", "interval_iou", "keyframe_hit")
"""Scores that an expression without a visible target cannot have: None there."""


def score_expression(
    sample: Sample,
    record: ResultRecord | None,
    scorer: Scorer,
    *,
    foreground_area: NDArray[np.int64] | None = None,
    largest: Masklet | None = None,
    exact: bool = False,
) -> ExpressionScore:
    """One row; ``record`` None is a missing prediction, and one whose dialogue could not begin has failed: both are 0.

    Args:
        foreground_area: (T,) pixels, for scorers that need it.
        largest: the prediction of the third baseline, scored beside.
        exact: keep every digit where the scorer rounds.

    Raises:
        DataError: a sample without ground truth, or a prediction of another size or that does not decode.
    """
    gt, size = ground_truth(sample), (sample.clip.height, sample.clip.width)
    failed = record is not None and record.failed
    answered = record is not None and not failed
    nothing: Sequence[RLE | None] = [None] * len(gt)
    # A failed record is scored too, though nothing of it counts: its masks must decode all the same.
    masks = score_clip(nothing if record is None else record.prediction, gt, size, sample.id)
    exists = masks.gt_visible
    values: dict[str, float | None] = dict.fromkeys(("jf", "j", "f", *scorer.extra), 0.0)
    values |= dict.fromkeys(TEMPORAL, 0.0 if exists.any() else None)
    if answered:
        values |= _values(Case(sample, masks, foreground_area), scorer, exact)
    if answered and record is not None and exists.any():
        values |= _grounding_values(record, _wanted_frames(sample, exists))
    baselines = constant_answers(masks.overlap[:, 2], size[0] * size[1])
    if largest is not None:
        baselines["largest"] = _jf(score_clip(largest, gt, size, f"{sample.id}, baseline largest"))
    extra = {name: values.pop(name) for name in scorer.extra}
    expression = sample.expression
    return ExpressionScore(
        clip=sample.clip.name,
        expression_id=expression.id,
        text=expression.text,
        kind=expression.kind,
        type_id=expression.type_id,
        frames=sample.clip.num_frames,
        visible_frames=int(exists.sum()),
        missing=record is None,
        baselines=baselines,
        objects=len(expression.anno_ids),
        failed=failed,
        extra=extra,
        **values,  # type: ignore[arg-type]
    )


def _wanted_frames(sample: Sample, exists: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(T,) where the target is visible; those in which it can be told from others, where the data set says so."""
    if not sample.expression.legible:
        return exists
    legible = np.zeros_like(exists)
    legible[list(sample.expression.legible)] = True
    return legible


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
    turn, found = record.turns[-1], dict[str, float | None]()
    if turn.grounding is not None:
        found["interval_iou"] = 100 * interval_iou(turn.grounding.start, turn.grounding.end, exists)
    elif turn.has_boxes:
        found["interval_iou"] = None
    if turn.chosen is not None:
        found["keyframe_hit"] = 100 * keyframe_hit(turn.chosen, exists)
    return found


def _values(case: Case, scorer: Scorer, exact: bool) -> dict[str, float | None]:
    masks = case.masks
    j, f = float(masks.j.mean()), float(masks.f.mean())
    values = {"jf": _jf(masks), "j": 100 * j, "f": 100 * f}
    values |= {name: 100 * value for name, value in scorer.extras(case).items()}
    if scorer.decimals is not None and not exact:
        values = {name: round(value, scorer.decimals) for name, value in values.items()}
    visible = j_visible(masks.j, masks.gt_visible)
    return {**values, "j_visible": None if visible is None else 100 * visible}


def _jf(masks: ClipScores) -> float:
    return 50 * (float(masks.j.mean()) + float(masks.f.mean()))
