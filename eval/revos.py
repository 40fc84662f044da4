"""ReVOS scores in the official tool's own tables: J, F, accuracy A and robustness R, by referring and reasoning.

Times 100. Each expression's values are rounded to two decimals before they are averaged, as that tool does, unless
``exact``; *overall* is the mean of the two groups, not of all expressions. Two things differ on purpose: objects are
merged by OR (adding bytes makes overlapping ground truth count twice), and a missing prediction scores 0 and is listed
instead of being dropped from the means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics import ClipScores, FrameMask, pixel_accuracy, robustness, score_clip
from eval.metrics.packing import frame_parts, runs
from rollout.errors import DataError
from rollout.types import RLE

METRICS = ("J", "F", "A", "R")
GROUPS = {"referring": 0, "reason": 1}
NO_TARGET = 2

Row = dict[str, Any]


def score_revos(
    meta: Mapping[str, Any],
    mask_dict: Mapping[str, list[FrameMask]],
    foreground: Mapping[str, Any],
    predictions: Mapping[str, Mapping[str, Any]],
    exact: bool = False,
) -> dict[str, Any]:
    """Score predictions against a ReVOS split; the arguments are the data set's own files, loaded.

    Args:
        meta: ``meta_expressions*.json``.
        mask_dict: ``mask_dict.json``, annotation id -> RLE or null per frame.
        foreground: ``mask_dict_foreground.json``, video -> ``{"masks_rle": [RLE per frame]}``.
        predictions: video -> expression id -> ``{"prediction_masks": [RLE or null per frame]}``.
        exact: keep every decimal of the per-expression values.

    Returns:
        ``per_expression`` rows and ``summary`` as the official tool writes them, plus ``no_target``, the means of the
        expressions without a target (computed there, never shown), and ``missing``, the names that scored 0.

    Raises:
        DataError: unknown video or expression, wrong frame count or size, an annotation id without masks.
    """
    videos = meta["videos"]
    _refuse_unknown(videos, predictions)
    rows: list[Row] = []
    missing: list[str] = []
    for name, video in videos.items():
        fg_area = _foreground_area(name, video, foreground)
        for exp_id, expression in video["expressions"].items():
            gt = _ground_truth(f"{name}/{exp_id}", expression, len(video["frames"]), mask_dict)
            prediction = predictions.get(name, {}).get(exp_id)
            if prediction is None:
                missing.append(f"{name}/{exp_id}")
                values = dict.fromkeys(METRICS, 0.0)
            else:
                size = (video["height"], video["width"])
                masks = _masks(f"{name}/{exp_id}", prediction)
                values = expression_values(score_clip(masks, gt, size, f"{name}/{exp_id}"), fg_area, size)
            rows.append(_row(name, exp_id, expression, values, exact))
    summary: dict[str, Any] = {group: _means(rows, type_id) for group, type_id in GROUPS.items()}
    summary["overall"] = _with_jf({m: _mean_of_groups([summary[group][m] for group in GROUPS]) for m in METRICS})
    return {
        "per_expression": rows,
        "summary": summary,
        "no_target": _means(rows, NO_TARGET),
        "missing": missing,
    }


def expression_values(masks: ClipScores, fg_area: NDArray[np.int64], size: tuple[int, int]) -> dict[str, float]:
    """J, F, A and R of one expression, 0..1, each the mean over frames.

    ``fg_area`` is (T,) pixels of the foreground masks, ``size`` a frame's (height, width).
    """
    return {
        "J": float(masks.j.mean()),
        "F": float(masks.f.mean()),
        "A": float(pixel_accuracy(masks.overlap, size[0] * size[1]).mean()),
        "R": float(robustness(masks.overlap, fg_area).mean()),
    }


def mask_areas(masks: Sequence[RLE | None], size: tuple[int, int], where: str) -> NDArray[np.int64]:
    """(T,) pixels of one RLE or None a frame of ``size`` (height, width). Raises DataError for one that misfits."""
    area = np.zeros(len(masks), np.int64)
    for t, rle in enumerate(masks):
        if rle is not None:
            area[t] = runs(rle, *size, f"{where}, frame {t}")[1::2].sum()
    return area


def _masks(name: str, prediction: Any) -> list[FrameMask]:
    masks = prediction.get("prediction_masks") if isinstance(prediction, Mapping) else None
    if not isinstance(masks, list):
        raise DataError(f"{name}: a prediction must be {{'prediction_masks': [RLE or null per frame]}}")
    return masks


def _row(name: str, exp_id: str, expression: Mapping[str, Any], values: Mapping[str, float], exact: bool) -> Row:
    values = {**values, "JF": (values["J"] + values["F"]) / 2}
    percent = {m: 100 * values[m] if exact else round(100 * values[m], 2) for m in ("J", "F", "JF", "A", "R")}
    return {
        "video_name": name,
        "exp_id": exp_id,
        "exp": expression["exp"],
        "videxp": f"{name}_{exp_id}",
        **percent,
        "type_id": expression["type_id"],
    }


def _means(rows: Iterable[Row], type_id: int) -> dict[str, float | None]:
    group = [row for row in rows if row["type_id"] == type_id]
    return _with_jf({m: float(np.mean([row[m] for row in group])) if group else None for m in METRICS})


def _with_jf(means: dict[str, float | None]) -> dict[str, float | None]:
    """A table's JF is the mean of its (rounded) J and F, not the mean of the rows' JF."""
    j, f = means["J"], means["F"]
    return {**means, "JF": None if j is None or f is None else (j + f) / 2}


def _mean_of_groups(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _ground_truth(
    name: str, expression: Mapping[str, Any], frames: int, mask_dict: Mapping[str, list[FrameMask]]
) -> list[FrameMask]:
    masklets = []
    for anno_id in expression["anno_id"]:
        masklet = mask_dict.get(str(anno_id))
        if masklet is None:
            raise DataError(f"{name}: annotation id {anno_id} has no masks in mask_dict.json")
        if len(masklet) != frames:
            raise DataError(f"{name}: annotation id {anno_id} has {len(masklet)} masks, the clip {frames} frames")
        masklets.append(masklet)
    return [[rle for masklet in masklets for rle in frame_parts(masklet[t])] for t in range(frames)]


def _foreground_area(name: str, video: Mapping[str, Any], foreground: Mapping[str, Any]) -> NDArray[np.int64]:
    """(T,) pixels of the foreground masks."""
    masks = foreground.get(name, {}).get("masks_rle")
    frames, height, width = len(video["frames"]), video["height"], video["width"]
    if masks is None or len(masks) != frames:
        found = "none" if masks is None else f"{len(masks)} masks"
        raise DataError(f"mask_dict_foreground.json: clip {name!r} has {frames} frames, found {found}")
    return mask_areas(masks, (height, width), f"{name}, foreground")


def _refuse_unknown(videos: Mapping[str, Any], predictions: Mapping[str, Mapping[str, Any]]) -> None:
    for name, expressions in predictions.items():
        if name not in videos:
            raise DataError(f"predictions hold clip {name!r}, which is not in the meta file: results of another split?")
        for exp_id in expressions:
            if exp_id not in videos[name]["expressions"]:
                raise DataError(f"predictions hold expression {exp_id!r} of clip {name!r}, which the meta file lacks")
