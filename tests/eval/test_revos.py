"""ReVOS tables on a data set small enough to score by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from eval.revos import score_revos
from rollout.errors import DataError
from tests.eval.clips import disk, rle

A, B = disk(20, 20, 9), disk(26, 20, 9)


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
        "meta": {"videos": {"v": video}},
        "mask_dict": {"1": [rle(A), rle(A)], "2": [rle(B), None]},
        "foreground": {"v": {"masks_rle": [rle(A | B), rle(A)]}},
        "predictions": {"v": {k: {"prediction_masks": m} for k, m in masks.items()}},
    }


def test_perfect_predictions_score_100_even_where_objects_overlap(data: dict[str, Any]) -> None:
    scores = score_revos(**data)
    assert scores["summary"] == {
        group: dict.fromkeys(("J", "F", "A", "R", "JF"), 100.0) for group in ("referring", "reason", "overall")
    }
    assert scores["no_target"]["JF"] == 100.0 and scores["missing"] == []
    assert list(scores["per_expression"][0]) == [
        "video_name", "exp_id", "exp", "videxp", "J", "F", "JF", "A", "R", "type_id"
    ]  # fmt: skip


def test_values_are_rounded_as_the_official_tool_does(data: dict[str, Any]) -> None:
    data["predictions"]["v"]["0"]["prediction_masks"] = [rle(A), rle(A)]
    j = 50 * (A.sum() / (A | B).sum() + 1)
    assert score_revos(**data)["per_expression"][0]["J"] == round(j, 2) != pytest.approx(j, abs=1e-9)
    assert score_revos(**data, exact=True)["per_expression"][0]["J"] == pytest.approx(j, abs=1e-12)


def test_overall_is_the_mean_of_the_two_groups(data: dict[str, Any]) -> None:
    data["meta"]["videos"]["v"]["expressions"]["3"] = data["meta"]["videos"]["v"]["expressions"]["0"]
    data["predictions"]["v"]["1"]["prediction_masks"] = [None, None]
    data["predictions"]["v"]["3"] = data["predictions"]["v"]["0"]
    summary = score_revos(**data)["summary"]
    assert (summary["referring"]["J"], summary["reason"]["J"], summary["overall"]["J"]) == (100.0, 0.0, 50.0)


def test_missing_prediction_counts_zero_and_is_listed(data: dict[str, Any]) -> None:
    del data["predictions"]["v"]["1"]
    scores = score_revos(**data)
    assert scores["missing"] == ["v/1"] and scores["summary"]["reason"]["R"] == 0.0


def test_robustness_falls_with_what_is_predicted_outside(data: dict[str, Any]) -> None:
    data["predictions"]["v"]["1"]["prediction_masks"] = [rle(A | B), rle(A)]
    outside = (B & ~A).sum() / (A | B).sum()
    assert score_revos(**data, exact=True)["per_expression"][1]["R"] == pytest.approx(100 * (1 - outside / 2))


def broken(data: dict[str, Any], what: str) -> dict[str, Any]:
    d = copy.deepcopy(data)
    predictions = d["predictions"]["v"]
    changes = {
        "clip 'w'": lambda: d["predictions"].update(w={}),
        "expression '9'": lambda: predictions.update({"9": predictions["0"]}),
        "annotation id 2 has no masks": lambda: d["mask_dict"].pop("2"),
        "annotation id 1 has 1 masks": lambda: d["mask_dict"].update({"1": [None]}),
        "found 1 masks": lambda: d["foreground"]["v"]["masks_rle"].pop(),
        "v/0, prediction, frame 1": lambda: predictions["0"]["prediction_masks"].__setitem__(1, rle(A.T)),
        "1 predicted frames against 2": lambda: predictions["0"]["prediction_masks"].pop(),
        "prediction_masks": lambda: predictions.update({"0": [None, None]}),
    }
    changes[what]()
    return d


@pytest.mark.parametrize(
    "what",
    [
        "clip 'w'",
        "expression '9'",
        "annotation id 2 has no masks",
        "annotation id 1 has 1 masks",
        "found 1 masks",
        "v/0, prediction, frame 1",
        "1 predicted frames against 2",
        "prediction_masks",
    ],
)
def test_bad_data_is_refused_by_name(data: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=what):
        score_revos(**broken(data, what))
