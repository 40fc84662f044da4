"""Everything that is drawn of one clip: frames with masks, the timeline, the dialogue turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from eval.report.charts import timeline
from eval.report.choice import Chosen, choose, kind_name
from eval.report.dialogue import TurnText, split_turn
from eval.report.images import GT_COLOUR, PRED_COLOUR, data_uri, decode, overlay, thumbnail
from eval.report.inputs import ReportStage
from eval.results.record import ResultRecord, TurnRecord
from eval.scorers.types import ExpressionScore
from rewards.metrics.packing import runs
from rollout.frames import evenly_spaced
from rollout.types import RLE, Sample

STRIP_FRAMES, STRIP_PIXELS = 6, 208
SHOWN_FRAMES, SHOWN_PIXELS = 12, 96


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
class Trace:
    """One dialogue about a clip."""

    title: str
    record: ResultRecord
    turns: list[TurnView]
    timeline: Markup


@dataclass(frozen=True)
class ClipView:
    labels: list[str]
    score: ExpressionScore
    kind: str
    strips: list[Strip]
    traces: list[Trace]


def clip_views(stages: Sequence[ReportStage]) -> list[ClipView]:
    """The chosen clips of the last stage, each beside the other stages' predictions; the dialogue is the last stage's.

    Raises DataError for a frame that cannot be read or an RLE that does not decode.
    """
    if not stages:
        return []
    last = stages[-1]
    samples = {sample.id for stage in stages for sample in stage.samples if sample.masklets is not None}
    records = {record.name for record in last.records}
    rows = [r for r in last.scores.expressions if r.name in samples and r.name in records]
    return views_of(choose(rows), stages, traced=stages[-1:])


def views_of(chosen: Chosen, stages: Sequence[ReportStage], traced: Sequence[ReportStage]) -> list[ClipView]:
    """Clips as chosen: ground truth, each stage's prediction, the dialogues of the stages in ``traced``.

    Of a clip without a sample only the dialogue is shown, without pictures.
    """
    samples = {sample.id: sample for stage in stages for sample in stage.samples if sample.masklets is not None}
    views = []
    for score, labels in chosen:
        sample = samples.get(score.name)
        found = [r for stage in traced if (r := _record(stage, score.name)) is not None]
        strips = []
        if sample is not None and found:
            frames = strip_frames(found)
            strips = [_gt_strip(sample, frames)]
            strips += [strip for stage in stages if (strip := _pred_strip(stage, sample, frames)) is not None]
        traces = [_trace(stage, r, sample) for stage in traced if (r := _record(stage, score.name)) is not None]
        views.append(ClipView(labels, score, kind_name(score), strips, traces))
    return views


def strip_frames(records: Sequence[ResultRecord]) -> list[int]:
    """Evenly spaced frames with both ends, and the last keyframe that each picked."""
    total = records[0].num_frames
    frames = set(evenly_spaced(0, total - 1, STRIP_FRAMES))
    frames |= {min(max(r.chosen, 0), total - 1) for r in records if r.chosen is not None}
    return sorted(frames)


def _record(stage: ReportStage, name: str) -> ResultRecord | None:
    return next((r for r in stage.records if r.name == name), None)


def _trace(stage: ReportStage, record: ResultRecord, sample: Sample | None) -> Trace:
    turns = [_turn(i, turn, sample) for i, turn in enumerate(record.turns, start=1)]
    return Trace(stage.title, record, turns, Markup("") if sample is None else _timeline(sample, record))


def _gt_strip(sample: Sample, frames: Sequence[int]) -> Strip:
    assert sample.masklets is not None
    pictures = [_drawn(sample, t, sample.masklets.union(t), GT_COLOUR) for t in frames]
    return Strip("ground truth", pictures, "gt")


def _pred_strip(stage: ReportStage, sample: Sample, frames: Sequence[int]) -> Strip | None:
    record = _record(stage, sample.id)
    score = next((s for s in stage.scores.expressions if s.name == sample.id), None)
    if record is None or score is None:
        return None
    picked = record.chosen
    pictures = []
    for t in frames:
        mask = decode(record.prediction[t], record.height, record.width, f"{record.name}, frame {t}")
        pictures.append(_drawn(sample, t, mask, PRED_COLOUR, t == picked))
    return Strip(f"{stage.title}: J&F {score.jf:.1f}", pictures, "pred")


def _drawn(sample: Sample, t: int, mask: Any, colour: tuple[int, int, int], keyframe: bool = False) -> Picture:
    frame = thumbnail(sample.clip.frames[t], STRIP_PIXELS)
    return Picture(t, data_uri(overlay(frame, mask, colour)), keyframe)


def _turn(number: int, turn: TurnRecord, sample: Sample | None) -> TurnView:
    if sample is None:
        return TurnView(number, turn, split_turn(turn.text), [], 0)
    shown = [t for t in turn.frames_shown if 0 <= t < sample.clip.num_frames]
    keep = [shown[i] for i in evenly_spaced(0, len(shown) - 1, SHOWN_FRAMES)] if shown else []
    pictures = []
    for t in keep:
        frame = thumbnail(sample.clip.frames[t], SHOWN_PIXELS)
        pictures.append(Picture(t, data_uri(frame, quality=60), t == turn.keyframe))
    return TurnView(number, turn, split_turn(turn.text), pictures, len(shown) - len(keep))


def _timeline(sample: Sample, record: ResultRecord) -> Markup:
    assert sample.masklets is not None
    masklets = [record.prediction, *sample.masklets.rles]
    seen = [[_any(rle, record) for rle in masklet] for masklet in masklets]
    exists = np.zeros(record.num_frames, np.bool_)
    for there in seen[1:]:
        exists |= np.array(there, np.bool_)
    picks = [(f"turn {i} picks", turn.grounding or turn.chosen) for i, turn in enumerate(record.turns, start=1)]
    return timeline(exists, np.array(seen[0]), picks)


def _any(rle: RLE | None, record: ResultRecord) -> bool:
    return rle is not None and bool(runs(rle, record.height, record.width, record.name)[1::2].any())
