"""Scorers by hand-made numbers: what each adds, how ReVOS weighs its groups, how a scorer of one's own comes in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.scorers import Case, Scorer, get_scorer, register_scorer, scorer_names
from eval.scorers.baselines import constant_answers
from eval.scorers.grouping import by_clip_length, by_objects, by_type, grouped
from eval.scorers.types import ExpressionScore
from eval.scores.expression import score_expression
from eval.scores.files import scores_table
from eval.scores.info import summarise
from rollout.errors import DataError
from rollout.types import Grounding, Masklets, Sample
from tests.eval.answers import answer, plain_score, truth
from tests.eval.clips import FRAMES, HEIGHT, WIDTH, disk, rle, samples

PIXELS = HEIGHT * WIDTH


@pytest.fixture
def target(tmp_path: Path) -> Sample:
    """Visible in frames 3..7 of ten."""
    return samples(tmp_path, clips=1)[0]


def row(**values: object) -> ExpressionScore:
    none = dict.fromkeys(("j_visible", "interval_iou", "keyframe_hit"))
    base = {"clip": "c", "expression_id": "0", "text": "", "kind": "", "type_id": 0, "frames": 10, "visible_frames": 5}
    base |= {"missing": False, "jf": 0.0, "j": 0.0, "f": 0.0, "baselines": {"nothing": 1.0}, **none}
    return ExpressionScore(**{**base, **values})  # type: ignore[arg-type]


def test_long_rvos_overlaps_in_time_and_volume(target: Sample) -> None:
    masks = truth(target)
    masks[3:5] = False  # late by two frames
    masks[8] = masks[7]  # and one too long
    got = score_expression(target, answer(target, masks), get_scorer("long_rvos"))
    assert got.extra["tiou"] == pytest.approx(100 * 3 / 6)
    assert got.extra["viou"] == pytest.approx(100 * 3 / 6)  # the three common frames are exact
    half = masks & (np.arange(WIDTH) % 2 == 0)
    worse = score_expression(target, answer(target, half), get_scorer("long_rvos"))
    assert worse.extra["tiou"] == pytest.approx(50) and 0 < (worse.extra["viou"] or 0) < 50
    assert worse.extra["viou"] == pytest.approx(100 * plain_score(target, half)["viou"])


def test_revos_robustness_and_accuracy(target: Sample) -> None:
    everything = np.ones((FRAMES, HEIGHT, WIDTH), np.bool_)
    area = np.full(FRAMES, PIXELS // 2)
    got = score_expression(target, answer(target, everything), get_scorer("revos"), foreground_area=area, exact=True)
    gt = truth(target).sum(axis=(1, 2))
    assert got.extra["accuracy"] == pytest.approx(100 * np.mean(gt / PIXELS))
    assert got.extra["robustness"] == pytest.approx(100 * np.mean(np.maximum(0, 1 - (PIXELS - gt) / area)))


def test_revos_overall_weighs_its_two_groups_alike() -> None:
    rows = [row(type_id=t, j=j, f=j, jf=j, extra={"accuracy": j}) for t, j in ((0, 90), (0, 60), (0, 30), (1, 20))]
    rows.append(row(type_id=2, j=100.0, f=100.0, jf=100.0, extra={"accuracy": 100.0}))
    overall = get_scorer("revos").overall(rows)
    assert (overall.metrics["jf"].mean, overall.metrics["accuracy"].mean, overall.count) == (40.0, 40.0, 4)
    assert Scorer().overall(rows).metrics["jf"].mean == 60.0
    assert get_scorer("revos").overall(rows[3:]).metrics["jf"].mean == 20.0


def test_revos_jf_is_that_of_the_groups_means() -> None:
    rows = [row(j=10.01, f=20.02, jf=15.02), row(j=10.0, f=20.0, jf=15.0)]
    assert get_scorer("revos").group("referring", rows).metrics["jf"].mean == pytest.approx((10.005 + 20.01) / 2)


def test_objects_are_merged_by_or(target: Sample) -> None:
    assert target.masklets is not None
    first = target.masklets.rles[0]
    second = tuple(rle(disk(30, 24, 12)) for _ in range(FRAMES))  # overlaps the first in some frames
    both = replace(target, masklets=Masklets(HEIGHT, WIDTH, (first, second), FRAMES))
    got = score_expression(both, answer(both, truth(both)), get_scorer("jf"))
    assert got.jf == 100.0 and got.visible_frames == FRAMES


def test_constant_answers_are_what_scoring_them_gives(target: Sample) -> None:
    full = rle(np.ones((HEIGHT, WIDTH), np.bool_))
    assert target.masklets is not None
    rles = (full, full, *target.masklets.rles[0][2:])
    sample = replace(target, masklets=Masklets(HEIGHT, WIDTH, (rles,), FRAMES))
    area = truth(sample).sum(axis=(1, 2))
    for name, mask in (("nothing", False), ("full", True)):
        drawn = np.full((FRAMES, HEIGHT, WIDTH), mask)
        got = score_expression(sample, answer(sample, drawn), get_scorer("jf"))
        assert got.jf == constant_answers(area, PIXELS)[name] == got.baselines[name]


def test_interval_and_keyframe_of_any_benchmark(target: Sample) -> None:
    got = score_expression(target, answer(target, truth(target), Grounding(5, 9, 2)), get_scorer("long_rvos"))
    assert (got.interval_iou, got.keyframe_hit) == (pytest.approx(100 * 3 / 7), 0.0)
    absent = replace(target, masklets=Masklets(HEIGHT, WIDTH, (), FRAMES))
    got = score_expression(absent, answer(absent, truth(absent), Grounding(0, 1, 0)), get_scorer("jf"))
    assert (got.interval_iou, got.keyframe_hit, got.jf) == (None, None, 100.0)


def test_groupings() -> None:
    assert [by_objects(row(objects=n))[1] for n in (0, 1, 2, 3, 9)] == [
        "no object", "1 object", "2 objects", "3 and more", "3 and more"
    ]  # fmt: skip
    assert [by_clip_length(row(frames=n))[1] for n in (1, 50, 51, 500, 501)] == [
        "1 to 50 frames", "1 to 50 frames", "51 to 100 frames", "201 to 500 frames", "more than 500 frames"
    ]  # fmt: skip
    assert [by_type(row(type_id=t))[1] for t in (0, 1, 2, None, 7)] == [
        "referring", "reasoning", "no target", "untyped", "type 7"
    ]  # fmt: skip
    assert list(grouped([row(frames=600), row(frames=60), row(frames=600)], "clip_length")) == [
        "51 to 100 frames", "more than 500 frames"
    ]  # fmt: skip


def test_scorers_are_found_by_name() -> None:
    assert scorer_names() == ["davis", "jf", "long_rvos", "mevis_v2", "ref_sav", "revos", "vicas"]
    with pytest.raises(DataError, match="no scorer called 'best'; there are davis, jf"):
        get_scorer("best")
    with pytest.raises(DataError, match=r"registered in eval\.scorers\.jf and in"):

        @register_scorer("jf")
        class Mine(Scorer):
            pass


def test_a_scorer_of_ones_own_adds_its_metric(target: Sample) -> None:
    class Area(Scorer):
        extra = ("area",)

        def extras(self, case: Case) -> dict[str, float | None]:
            return {"area": float(case.masks.overlap[:, 1].max()) / PIXELS}

    got = score_expression(target, answer(target, truth(target)), Area())
    assert got.value("area") == pytest.approx(100 * truth(target).sum(axis=(1, 2)).max() / PIXELS)
    assert Area().group("all", [got]).metrics["area"].mean == got.value("area")
    assert "area" in scores_table(summarise([got], Area()))
