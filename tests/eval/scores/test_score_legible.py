"""Where a data set says in which frames a target can be told, keyframe hits and intervals are judged by those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eval.scores.in_memory import score_results
from rollout.types import Sample
from tests.eval.clips import record, samples


def legible(sample: Sample, *frames: int) -> Sample:
    return replace(sample, expression=replace(sample.expression, legible=frames))


def test_hits_and_intervals_are_those_of_legible_frames(tmp_path: Path) -> None:
    sample = samples(tmp_path, clips=1)[0]
    answer = record(sample)
    grounding = answer.turns[-1].grounding
    assert grounding is not None
    (plain,) = score_results([answer], [sample]).expressions
    assert plain.keyframe_hit == 100.0, "visible there"
    other = grounding.keyframe + 1
    (missed,) = score_results([answer], [legible(sample, other)]).expressions
    assert missed.keyframe_hit == 0.0 and missed.jf == plain.jf
    (hit,) = score_results([answer], [legible(sample, grounding.keyframe)]).expressions
    assert hit.keyframe_hit == 100.0 and hit.interval_iou != plain.interval_iou
