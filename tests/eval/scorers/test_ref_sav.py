"""Ref-SAV's table: long and short expressions weigh the same, whatever their number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.scorers import get_scorer
from tests.eval.scorers.test_scorers import row
from tests.golden_checks.totals import score

GOLDEN = Path(__file__).parents[2] / "golden_files" / "ref_sav_scores.json"


def test_overall_is_the_mean_of_long_and_short() -> None:
    """13 perfect long and 6 poor short expressions: the mean over expressions would be 77.2."""
    data = json.loads(GOLDEN.read_text())
    case = next(c for c in data["cases"] if c["name"] == "good_on_long_only")
    scores = score("ref_sav", data["datasets"]["sound"], case)
    metrics = scores.overall.metrics
    assert round(metrics["j"].mean, 2) == 72.48 and round(metrics["f"].mean, 2) == 63.74
    assert round(metrics["accuracy"].mean, 2) == 97.01
    assert scores.groups["kind"]["long"].metrics["jf"].mean == 100.0


@pytest.mark.parametrize(("poor", "right"), [(27.72, 63.86), (36.22, 68.11)])
def test_groups_weigh_the_same_whatever_their_number(poor: float, right: float) -> None:
    rows = [row(kind="long", j=100.0, f=100.0, jf=100.0, extra={"accuracy": 100.0})] * 13
    rows += [row(kind="short", j=poor, f=poor, jf=poor, extra={"accuracy": 94.0})] * 6
    overall = get_scorer("ref_sav").overall(rows)
    assert overall.metrics["jf"].mean == pytest.approx(right) and overall.metrics["accuracy"].mean == 97.0
    assert sum(r.jf for r in rows) / 19 == pytest.approx((1300 + 6 * poor) / 19)
