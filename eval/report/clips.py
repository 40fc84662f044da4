"""The few clips that a report shows: which, and everything that is drawn of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from eval.report.charts import timeline
from eval.report.dialogue import TurnText, split_turn
from eval.report.images import GT_COLOUR, PRED_COLOUR, data_uri, decode, overlay, thumbnail
from eval.report.inputs import ReportStage
from eval.result_record import ResultRecord, TurnRecord
from eval.score_types import TYPE_NAMES, ExpressionScore
from rollout.types import Sample

STRIP_FRAMES, STRIP_PIXELS = 6, 208
SHOWN_FRAMES, SHOWN_PIXELS = 12, 96
MOST_KINDS = 8


@dataclass(frozen=True)
class Picture:
    """One frame as the page shows it."""

    frame: int
    uri: str
    is_keyframe: bool = False


@dataclass(frozen=True)
class Strip:
    """One row of pictures: ground truth, or a stage's prediction with its J&F."""

    title: str
    pictures: list[Picture]
    css: str


@dataclass(frozen=True)
class TurnView:
    number: int
    turn: TurnRecord
    parts: TurnText
    shown: list[Picture]
    hidden: int
    """Frames that the turn was shown beyond those drawn."""


@dataclass(frozen=True)
class ClipView:
    labels: list[str]
    score: ExpressionScore
    kind: str
    record: ResultRecord
    strips: list[Strip]
    turns: list[TurnView]
    timeline: Markup


def choose(rows: Sequence[ExpressionScore]) -> list[tuple[ExpressionScore, list[str]]]:
    """Best, median and worst, then the median of each kind; expressions without a prediction cannot be drawn.

    No-target expressions stand only for their kind: an empty answer to them would be every report's best clip.
    """
    drawable = sorted((r for r in rows if not r.missing), key=lambda r: (r.jf, r.name))
    ranked = [r for r in drawable if r.visible_frames] or drawable
    if not ranked:
        return []
    labels: dict[str, list[str]] = {}
    by_name = {r.name: r for r in drawable}
    for label, row in (("best", ranked[-1]), ("median", ranked[len(ranked) // 2]), ("worst", ranked[0])):
        labels.setdefault(row.name, []).append(label)
    kinds: dict[str, list[ExpressionScore]] = {}
    for row in drawable:
        kinds.setdefault(kind_name(row), []).append(row)
    for kind in sorted(kinds)[:MOST_KINDS]:
        row = kinds[kind][len(kinds[kind]) // 2]
        labels.setdefault(row.name, []).append(f"median of {kind}")
    return [(by_name[name], marks) for name, marks in labels.items()]


def kind_name(row: ExpressionScore) -> str:
    """The data set's own label, or the type where it has none."""
    return row.kind.replace("_", " ") or TYPE_NAMES.get(row.type_id, "untyped")


def clip_views(stages: Sequence[ReportStage]) -> list[ClipView]:
    """The chosen clips of the last stage, each beside the other stages' predictions.

    Raises DataError for a frame that cannot be read or an RLE that does not decode.
    """
    if not stages:
        return []
    last = stages[-1]
    samples = {sample.id: sample for stage in stages for sample in stage.samples if sample.masklets is not None}
    records = {record.name: record for record in last.records}
    views = []
    for score, labels in choose([r for r in last.scores.expressions if r.name in samples and r.name in records]):
        sample, record = samples[score.name], records[score.name]
        frames = strip_frames(record)
        strips = [_gt_strip(sample, frames)]
        strips += [strip for stage in stages if (strip := _pred_strip(stage, sample, frames)) is not None]
        turns = [_turn(i, turn, sample) for i, turn in enumerate(record.turns, start=1)]
        views.append(ClipView(labels, score, kind_name(score), record, strips, turns, _timeline(sample, record)))
    return views


def strip_frames(record: ResultRecord) -> list[int]:
    """Evenly spaced frames with both ends, and the last keyframe picked."""
    frames = set(
        np.linspace(0, record.num_frames - 1, min(STRIP_FRAMES, record.num_frames)).round().astype(int).tolist()
    )
    if record.grounding is not None:
        frames.add(min(max(record.grounding.keyframe, 0), record.num_frames - 1))
    return sorted(frames)


def _gt_strip(sample: Sample, frames: Sequence[int]) -> Strip:
    assert sample.masklets is not None
    pictures = [_drawn(sample, t, sample.masklets.union(t), GT_COLOUR) for t in frames]
    return Strip("ground truth", pictures, "gt")


def _pred_strip(stage: ReportStage, sample: Sample, frames: Sequence[int]) -> Strip | None:
    record = next((r for r in stage.records if r.name == sample.id), None)
    score = next((s for s in stage.scores.expressions if s.name == sample.id), None)
    if record is None or score is None:
        return None
    picked = record.grounding.keyframe if record.grounding else None
    pictures = []
    for t in frames:
        mask = decode(record.prediction[t], record.height, record.width, f"{record.name}, frame {t}")
        pictures.append(_drawn(sample, t, mask, PRED_COLOUR, t == picked))
    return Strip(f"{stage.title}: J&F {score.jf:.1f}", pictures, "pred")


def _drawn(sample: Sample, t: int, mask: Any, colour: tuple[int, int, int], keyframe: bool = False) -> Picture:
    frame = thumbnail(sample.clip.frames[t], STRIP_PIXELS)
    return Picture(t, data_uri(overlay(frame, mask, colour)), keyframe)


def _turn(number: int, turn: TurnRecord, sample: Sample) -> TurnView:
    shown = [t for t in turn.frames_shown if 0 <= t < sample.clip.num_frames]
    keep = shown
    if len(shown) > SHOWN_FRAMES:
        keep = [shown[i] for i in np.linspace(0, len(shown) - 1, SHOWN_FRAMES).round().astype(int)]
    pictures = []
    for t in keep:
        frame = thumbnail(sample.clip.frames[t], SHOWN_PIXELS)
        pictures.append(Picture(t, data_uri(frame, quality=60), t == turn.keyframe))
    return TurnView(number, turn, split_turn(turn.text), pictures, len(shown) - len(keep))


def _timeline(sample: Sample, record: ResultRecord) -> Markup:
    assert sample.masklets is not None
    predicted = np.array([rle is not None and _any(rle, record) for rle in record.prediction])
    picks = [(f"turn {i} picks", turn.grounding) for i, turn in enumerate(record.turns, start=1)]
    return timeline(sample.masklets.existence(), predicted, picks)


def _any(rle: Any, record: ResultRecord) -> bool:
    return bool(decode(rle, record.height, record.width, record.name).any())
