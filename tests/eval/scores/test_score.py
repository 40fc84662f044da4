"""Scores of whole results: invariants, groups, baselines, what is missing, what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from eval.scorers.types import Mean
from eval.scores.files import read_scores, scores_table, write_scores
from eval.scores.in_memory import score_results
from rollout.errors import DataError
from rollout.types import Grounding, Sample, StopReason
from tests.eval.clips import FRAMES, disk, record, rle, samples, shifted


@pytest.fixture
def truth(tmp_path: Path) -> list[Sample]:
    return samples(tmp_path)


def test_ground_truth_scores_100_everywhere(truth: list[Sample]) -> None:
    scores = score_results([record(s) for s in truth], truth)
    assert scores.jf == 100.0 and scores.missing == []
    assert scores.overall.metrics["j_visible"] == Mean(100.0, 0.0, 8)
    assert scores.overall.metrics["interval_iou"].mean == scores.overall.metrics["keyframe_hit"].mean == 100.0
    assert (
        set(scores.by_type)
        == {"referring", "reasoning", "no target"}
        == {"attribute", "temporal", "no target"}
        ^ {
            "attribute",
            "temporal",
            "referring",
            "reasoning",
        }
    )
    assert scores.by_kind["temporal"].count == 4 == scores.by_kind["temporal"].metrics["jf"].n


def test_predicting_nothing_equals_its_baseline(truth: list[Sample]) -> None:
    scores = score_results([record(s, [None] * FRAMES) for s in truth], truth)
    # 5 of 10 frames are empty and earn 100; a no-target expression earns all
    assert scores.by_kind["attribute"].metrics["jf"].mean == 50.0
    assert scores.by_kind["no target"].metrics["jf"].mean == 100.0
    assert scores.overall.metrics["j_visible"].mean == 0.0
    assert scores.jf == scores.overall.baselines["nothing"].mean
    assert scores.overall.margin.mean == 0.0


def test_baselines(truth: list[Sample]) -> None:
    scores = score_results([], truth)
    by_kind = {k: {n: m.mean for n, m in g.baselines.items()} for k, g in scores.by_kind.items()}
    assert by_kind["temporal"]["largest"] == 100.0  # the larger of each clip's two objects is the temporal one
    assert 50 < (by_kind["attribute"]["largest"] or 0) < 100
    assert by_kind["no target"] == {"nothing": 100.0, "full": 50.0, "largest": 50.0}
    full = rle(disk(0, 0, 999))
    drawn = score_results([record(s, [full] * FRAMES) for s in truth], truth)
    assert drawn.jf == drawn.overall.baselines["full"].mean


def test_missing_predictions_count_zero_and_are_listed(truth: list[Sample]) -> None:
    scores = score_results([record(s) for s in truth[1:]], truth)
    assert scores.missing == ["clip0/0"] and scores.overall.count == 12
    assert scores.jf == pytest.approx(100 * 11 / 12)
    row = scores.expressions[0]
    assert (row.jf, row.j_visible, row.interval_iou, row.keyframe_hit) == (0, 0, 0, 0)
    everything_missing = score_results([], truth)
    assert everything_missing.jf == 0.0 and len(everything_missing.missing) == 12


def test_interval_and_keyframe_come_from_the_last_turn(truth: list[Sample]) -> None:
    answer = record(truth[0])
    turns = (answer.turns[0], replace(answer.turns[1], grounding=Grounding(3, 9, 0)))
    row = score_results([replace(answer, turns=turns)], truth[:1]).expressions[0]
    assert (row.interval_iou, row.keyframe_hit) == (pytest.approx(100 * 5 / 7), 0.0)
    silent = replace(answer, turns=(answer.turns[0], replace(answer.turns[1], grounding=None)))
    row = score_results([silent], truth[:1]).expressions[0]
    assert (row.interval_iou, row.keyframe_hit, row.jf) == (0.0, 0.0, 100.0)


def test_a_dialogue_that_never_began_has_failed_and_earns_nothing(truth: list[Sample]) -> None:
    """Its empty masks would be right wherever the target is absent."""
    silent = replace(record(truth[0], [None] * FRAMES), turns=(), stop=StopReason.CONTEXT_FULL)
    scores = score_results([silent], truth[:1])
    assert scores.failed == [truth[0].id] and scores.missing == []
    row = scores.expressions[0]
    assert row.failed and (row.jf, row.interval_iou, row.keyframe_hit) == (0, 0, 0)


def test_standard_error() -> None:
    assert Mean.of([1.0, 2.0, None, 3.0]) == Mean(2.0, pytest.approx((1 / 3) ** 0.5), 3)
    assert Mean.of([4.0]) == Mean(4.0, None, 1)
    assert Mean.of([None]) == Mean(None, None, 0)


def test_files_and_table(truth: list[Sample], tmp_path: Path) -> None:
    records = [record(s, shifted(s, 3)) for s in truth[:-1]]
    scores = score_results(records, truth, protocol={"max_turns": 3}, seed=7)
    json_path, csv_path = write_scores(scores, tmp_path / "out")
    assert read_scores(json_path) == scores
    info = json.loads(json_path.read_text())["info"]
    assert (info["seed"], info["protocol"], info["expressions"], info["frames"]) == (7, {"max_turns": 3}, 12, 120)
    assert {"date", "versions", "frames_with_target"} <= set(info)
    rows = list(csv.DictReader(csv_path.open(newline="")))
    assert len(rows) == 12 and float(rows[0]["jf"]) == scores.expressions[0].jf
    assert rows[0]["text"] == truth[0].expression.text and "baseline_nothing" in rows[0]
    table = scores_table(scores)
    assert f"{scores.jf:.1f}" in table and "1 missing, each counts 0: clip3/2" in table
    assert not list((tmp_path / "out").glob(".*"))
    json_path.write_text("{}")
    with pytest.raises(DataError, match="not a scores file"):
        read_scores(json_path)


def test_wrong_results_are_refused_by_name(truth: list[Sample]) -> None:
    good = record(truth[0])
    for records, says in (
        ([replace(good, clip="elsewhere")], "elsewhere/0: predicted, but not in the benchmark"),
        ([good, good], "clip0/0: predicted twice"),
        ([replace(good, height=50)], "10 frames of 50x64"),
        ([replace(good, num_frames=9, prediction=good.prediction[:9])], "9 frames of 48x64"),
        ([replace(good, prediction=good.prediction[:9])], "10 frames but 9 masks"),
        ([replace(good, prediction=(rle(disk(9, 9, 5).T), *good.prediction[1:]))], "clip0/0, prediction, frame 0"),
    ):
        with pytest.raises(DataError, match=says):
            score_results(records, truth)
    with pytest.raises(DataError, match="no ground truth"):
        score_results([], [replace(truth[0], masklets=None)])
    with pytest.raises(DataError, match="twice in the benchmark"):
        score_results([], [truth[0], truth[0]])
    with pytest.raises(DataError, match="no samples"):
        score_results([], [])


def test_progress_is_told(truth: list[Sample]) -> None:
    told: list[tuple[int, int, str]] = []
    score_results([], truth, progress=lambda *args: told.append(args))
    assert told[0] == (0, 12, "scoring clip0/0") and told[-1][:2] == (12, 12)
