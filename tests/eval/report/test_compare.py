"""Two results side by side: differences, their intervals, and the three ways they are written."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data_construction.layouts import write_layout
from eval.benchmarks import load_benchmark
from eval.report.compare import bootstrap_by_clip, compare_scores, difference
from eval.report.compare_files import comparison_csv, comparison_table, in_words, write_comparison
from eval.scorers.types import Scores
from eval.scores.in_memory import score_results
from rollout.errors import DataError
from rollout.types import Sample
from tests.eval.answers import disturbed, nothing, truth, write_results
from tests.eval.clips import record, samples, shifted
from tests.eval.report.test_report import Tags
from tests.eval.report.test_report_evaluation import words
from verl_ext.cli.main import app

Predict = Callable[[int, Sample], float]


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return samples(tmp_path_factory.mktemp("frames"))


def scored(every: list[Sample], shift: Predict, leave_out: int | None = None) -> Scores:
    records = [record(s, shifted(s, shift(i, s))) for i, s in enumerate(every) if i != leave_out]
    return score_results(records, every)


def test_differences_are_paired_and_counted_by_clip(every: list[Sample]) -> None:
    a = scored(every, lambda i, s: 6)
    b = scored(every, lambda i, s: 2 if s.clip.name != "clip1" else 9)
    found = compare_scores(a, b, ("type", "kind", "objects"))
    changes = {row.name: row.change for row in found.rows}
    for before, after in zip(a.expressions, b.expressions, strict=True):
        assert changes[before.name] == after.jf - before.jf
    assert found.overall.mean.mean == pytest.approx(b.jf - a.jf)
    assert found.overall.mean.se == pytest.approx(np.std(list(changes.values()), ddof=1) / np.sqrt(len(changes)))
    assert (found.overall.a, found.overall.b) == (pytest.approx(a.jf), pytest.approx(b.jf))
    assert (found.headline_a, found.headline_b) == (a.jf, b.jf)
    by_clip = {clip.clip: clip for clip in found.clips}
    assert by_clip["clip1"].change < 0 < by_clip["clip0"].change and by_clip["clip2"].expressions == 3
    assert set(found.groups) == {"type", "kind", "objects"} and found.groups["objects"]["no object"].mean.mean == 0
    assert [r.clip for r in found.losses(9)] == ["clip1"] * 2 and len(found.gains(9)) == 6
    assert [r.change for r in found.gains(2)] == sorted(changes.values(), reverse=True)[:2]


def test_same_results_differ_by_nothing(every: list[Sample]) -> None:
    a = scored(every, lambda i, s: 4)
    same = compare_scores(a, a)
    assert (same.overall.mean.mean, same.overall.low, same.overall.high) == (0, 0, 0) and not same.overall.is_clear
    assert same.gains(5) == same.losses(5) == [] and "no difference shown" in in_words(same)


def test_interval_resamples_clips_not_expressions(every: list[Sample]) -> None:
    """Expressions of one clip that change alike must not make the interval narrow."""
    a = scored(every, lambda i, s: 6)
    b = scored(every, lambda i, s: 0 if s.clip.name == "clip0" else 6)
    found = compare_scores(a, b).overall
    assert found.low == 0 and not found.is_clear, "one clip of four alone is no evidence"
    assert found.high is not None and found.mean.mean is not None and found.high > 2 * found.mean.mean
    every_clip = compare_scores(a, scored(every, lambda i, s: 2)).overall
    assert every_clip.is_clear and every_clip.low is not None and every_clip.low > 0
    one = [row for row in compare_scores(a, b).rows if row.clip == "clip0"]
    assert bootstrap_by_clip(one) == (None, None) and not difference(one).is_clear


def test_bootstrap_agrees_with_theory() -> None:
    """With one expression a clip, the interval is about the mean ± 1.96 standard errors."""

    class One:
        def __init__(self, clip: int, change: float) -> None:
            self.clip, self.change = str(clip), change

    changes = np.random.default_rng(0).normal(1.0, 5.0, 400)
    low, high = bootstrap_by_clip([One(i, c) for i, c in enumerate(changes)])  # type: ignore[misc]
    assert low is not None and high is not None
    error = changes.std(ddof=1) / 20
    assert low == pytest.approx(changes.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(changes.mean() + 1.96 * error, abs=0.1 * error)


def test_missing_counts_zero_and_is_said(every: list[Sample], tmp_path: Path) -> None:
    a = scored(every, lambda i, s: 0)
    b = scored(every, lambda i, s: 0, leave_out=0)
    found = compare_scores(a, b)
    (row,) = found.losses(5)
    assert row.name == "clip0/0" and row.missing_b and row.change == -100
    table = comparison_table(found, ("first", "second"))
    assert "[no prediction in B]" in table and "A = first" in table and "\N{MINUS SIGN}100.0" in table
    json_path, csv_path = write_comparison(found, ("first", "second"), tmp_path / "out")
    raw = json.loads(json_path.read_text())
    assert raw["a"] == "first" and raw["overall"]["mean"]["n"] == 12 and raw["clips"][0]["change"] < 0
    rows = list(csv.DictReader(io.StringIO(comparison_csv(found))))
    assert csv_path.read_text() == comparison_csv(found) and len(rows) == 12
    assert (rows[0]["missing_b"], float(rows[0]["change"])) == ("True", -100.0)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["comparison.csv", "comparison.json"]


def test_other_expressions_are_refused(every: list[Sample]) -> None:
    with pytest.raises(DataError, match="not scored on the same expressions: 3 only in A"):
        compare_scores(scored(every, lambda i, s: 0), scored(every[3:], lambda i, s: 0))
    with pytest.raises(DataError, match="3 only in B"):
        compare_scores(scored(every[3:], lambda i, s: 0), scored(every, lambda i, s: 0))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder of the comparison, what the command said): nothing predicted against a disturbed truth."""
    base = tmp_path_factory.mktemp("compare")
    write_layout("mevis", base / "MeViS", clips=3)
    every = list(load_benchmark("mevis_u").samples(base / "MeViS"))
    write_results(
        base / "a" / "mevis_u", every, lambda s: nothing(s) if s.clip.name != every[0].clip.name else truth(s)
    )
    write_results(base / "b" / "mevis_u", every[:-1], disturbed)
    sides = [str(base / "a" / "mevis_u"), str(base / "b" / "mevis_u" / "results.jsonl")]
    command = ["compare", *sides, "--benchmark", "mevis_u", "--root", str(base / "MeViS"), "--out", str(base / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return base / "out", done.output


def test_command_writes_all_three(compared: tuple[Path, str]) -> None:
    out, said = compared
    assert "A = a/mevis_u" in said and "B = b/mevis_u" in said and "largest gains by expression" in said
    assert sorted(p.name for p in out.iterdir()) == ["comparison.csv", "comparison.html", "comparison.json"]
    html = (out / "comparison.html").read_text()
    assert Tags(html).open == [] and "default-src 'none'" in html
    drawn = html.count('<article class="clip">')
    assert drawn >= 3 and html.count('class="strip gt"') == drawn and html.count("<details") >= 2
    assert html.count('class="strip pred"') in (2 * drawn, 2 * drawn - 1)
    text = words(out / "comparison.html")
    assert re.search(r"B gains \d", text) and re.search(r"B loses \d", text) and "95 % interval" in text


def test_imports_are_light() -> None:
    names = "eval.report.compare, eval.report.compare_files, eval.submission"
    names += ", eval.report.folder, eval.report.comparison"
    code = f"import sys, {names}, verl_ext.cli.report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "eval.submission.write" in loaded and not {"torch", "ray", "verl", "vllm", "numba", "cv2"} & set(loaded)


def test_command_refuses_other_results(compared: tuple[Path, str], tmp_path: Path) -> None:
    root = compared[0].parent / "MeViS"
    sides = [str(compared[0].parent / side / "mevis_u") for side in "ab"]
    done = CliRunner().invoke(app, ["compare", *sides, "--root", str(root)])
    assert done.exit_code == 2 and "give --benchmark" in done.output
    done = CliRunner().invoke(app, ["compare", sides[0], str(tmp_path), "--benchmark", "mevis_u", "--root", str(root)])
    assert done.exit_code == 2 and "no results file there" in done.output
