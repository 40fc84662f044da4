"""ReVOS tables on a data set small enough to score by hand, through the whole of ``videoseg score``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import load_benchmark
from eval.scorers.types import Scores
from eval.scores.benchmark import score_benchmark
from eval.scores.files import scores_table
from rollout.errors import DataError
from tests.eval.clips import disk, rle
from tests.golden_checks.revos_scores import write_folder

A, B = disk(20, 20, 9), disk(26, 20, 9)
Score = Callable[..., Scores]


@pytest.fixture
def data() -> dict[str, Any]:
    """Two frames; objects 1 and 2 overlap; the second frame holds only object 1."""
    expressions = {
        "0": {"exp": "both", "obj_id": [1, 2], "anno_id": [1, 2], "type_id": 0},
        "1": {"exp": "one", "obj_id": [1], "anno_id": [1], "type_id": 1},
        "2": {"exp": "none", "obj_id": [], "anno_id": [], "type_id": 2},
    }
    video = {"frames": ["00000", "00001"], "height": 48, "width": 64, "expressions": expressions}
    masks = {"0": [rle(A | B), rle(A)], "1": [rle(A), rle(A)], "2": [None, None]}
    return {
        "meta_expressions": {"videos": {"v": video}},
        "mask_dict": {"1": [rle(A), rle(A)], "2": [rle(B), None]},
        "mask_dict_foreground": {"v": {"masks_rle": [rle(A | B), rle(A)]}},
        "predictions": {"v": {k: {"prediction_masks": m} for k, m in masks.items()}},
    }


@pytest.fixture
def score(data: dict[str, Any], tmp_path: Path) -> Score:
    def run(**options: Any) -> Scores:
        return score_benchmark(write_folder(data, tmp_path), load_benchmark("revos"), tmp_path, workers=1, **options)

    return run


def test_perfect_predictions_score_100_even_where_objects_overlap(score: Score) -> None:
    scores = score()
    assert scores.missing == []
    for group in (scores.overall, *scores.groups["type"].values()):
        assert {group.metrics[m].mean for m in ("jf", "j", "f", "accuracy", "robustness")} == {100.0}, group.name
    assert list(scores.groups["type"]) == ["referring", "reasoning", "no target"]


def test_values_are_rounded_as_the_official_tool_does(data: dict[str, Any], score: Score, tmp_path: Path) -> None:
    data["predictions"]["v"]["0"]["prediction_masks"] = [rle(A), rle(A)]
    j = 50 * (A.sum() / (A | B).sum() + 1)
    assert score().expressions[0].j == round(j, 2) != pytest.approx(j, abs=1e-9)
    (tmp_path / "run" / "results.jsonl").unlink()
    assert score(exact=True).expressions[0].j == pytest.approx(j, abs=1e-12)


def test_overall_is_the_mean_of_the_two_groups(data: dict[str, Any], score: Score) -> None:
    expressions = data["meta_expressions"]["videos"]["v"]["expressions"]
    expressions["3"] = expressions["0"]
    data["predictions"]["v"]["1"]["prediction_masks"] = [None, None]
    data["predictions"]["v"]["3"] = data["predictions"]["v"]["0"]
    scores = score()
    means = [group.metrics["j"].mean for group in (*scores.groups["type"].values(), scores.overall)]
    assert means == [100.0, 0.0, 100.0, 50.0]


def test_a_split_without_one_of_the_groups_has_the_others_mean(data: dict[str, Any], score: Score) -> None:
    for part in (data["meta_expressions"]["videos"]["v"]["expressions"], data["predictions"]["v"]):
        del part["1"]
    scores = score()
    assert "reasoning" not in scores.groups["type"] and scores.jf == 100.0


def test_missing_prediction_counts_zero_and_is_listed(data: dict[str, Any], score: Score) -> None:
    del data["predictions"]["v"]["1"]
    scores = score()
    assert scores.missing == ["v/1"] and scores.groups["type"]["reasoning"].metrics["robustness"].mean == 0.0


def test_robustness_falls_with_what_is_predicted_outside(data: dict[str, Any], score: Score) -> None:
    data["predictions"]["v"]["1"]["prediction_masks"] = [rle(A | B), rle(A)]
    outside = (B & ~A).sum() / (A | B).sum()
    assert score(exact=True).expressions[1].value("robustness") == pytest.approx(100 * (1 - outside / 2))


def test_no_target_expressions_weigh_in_no_other_group(data: dict[str, Any], score: Score) -> None:
    """They are as right as can be, and must not lift the means of the clips' lengths."""
    for eid in "01":
        data["predictions"]["v"][eid]["prediction_masks"] = [None, None]
    scores = score()
    for grouping in ("objects", "clip_length"):
        groups = scores.groups[grouping]
        assert list(groups)[-1] == "no target" and groups["no target"].count == 1
        assert sum(g.count for g in groups.values()) == 3
        assert {g.metrics["jf"].mean for label, g in groups.items() if label != "no target"} == {0.0}


Bad = dict[str, Callable[[dict[str, Any]], Any]]
BAD_DATA: Bad = {
    "annotation 2: has no masks": lambda d: d["mask_dict"].pop("2"),
    "mask list has 1 entries for 2 frames": lambda d: d["mask_dict"].update({"1": [None]}),
    "has 1 entries for 2 frames": lambda d: d["mask_dict_foreground"]["v"]["masks_rle"].pop(),
}
BAD_RESULTS: Bad = {
    "v/0, prediction, frame 1": lambda d: d["predictions"]["v"]["0"]["prediction_masks"].__setitem__(1, rle(A.T)),
    "predicted on 1 frames": lambda d: d["predictions"]["v"]["0"]["prediction_masks"].pop(),
}


@pytest.mark.parametrize("what", [*BAD_DATA, *BAD_RESULTS])
def test_what_is_bad_is_refused_by_name(data: dict[str, Any], score: Score, what: str) -> None:
    {**BAD_DATA, **BAD_RESULTS}[what](data)
    with pytest.raises(DataError, match=what):
        score(strict=True)


@pytest.mark.parametrize("what", BAD_DATA)
def test_bad_data_cost_their_expressions_only(data: dict[str, Any], score: Score, what: str) -> None:
    BAD_DATA[what](data)
    scores = score()
    assert scores.broken and all(what in scores.info["broken"][name] for name in scores.broken)
    assert all(row.jf == (0.0 if row.name in scores.broken else 100.0) for row in scores.expressions)


def test_as_released_from_pngs_of_value_255(data: dict[str, Any], score: Score) -> None:
    """A counts every hit as wrong, R weighs a pixel outside 255 times: one is enough here."""
    data["predictions"]["v"]["1"]["prediction_masks"] = [rle(A | B), rle(A)]
    row = score(exact=True, released=True).expressions[1]
    background = [48 * 64 - (A | B).sum(), 48 * 64 - A.sum()]
    assert row.value("accuracy") == pytest.approx(100 * sum(background) / (2 * 48 * 64))
    assert row.value("robustness") == pytest.approx(50.0)


def test_published_robustness_stands_beside_no_other_quantity(score: Score, tmp_path: Path) -> None:
    ours = score()
    (tmp_path / "run" / "results.jsonl").unlink()
    released, table = score(released=True), scores_table(ours, 400)
    assert "R (ours)" in table and "A (ours)" in table and "R 28.5" not in table and "J&F 59.9" in table
    table = scores_table(released, 400)
    assert "(ours)" not in table and "R 28.5" in table
