"""What the benchmarks' own tools do with missing expressions: said beside each table, and done on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import benchmark_names, load_benchmark
from eval.scorers.missing import RULES, in_words
from eval.scores.benchmark import score_benchmark
from eval.scores.files import read_scores, scores_table, write_scores
from rollout.errors import DataError
from tests.eval.answers import write_results
from tests.eval.scorers.test_scorers import row

ROWS = [
    row(clip="a", expression_id="0", missing=True),
    row(clip="a", expression_id="1"),
    row(clip="b", expression_id="0", missing=True),
]


@pytest.mark.parametrize(("rule", "left_out"), [("zero", set()), ("left_out", {"a/0", "b/0"}), ("clip_zero", {"a/0"})])
def test_rules(rule: str, left_out: set[str]) -> None:
    assert RULES[rule].left_out(ROWS) == left_out


def test_a_tool_that_refuses() -> None:
    with pytest.raises(DataError, match=r"2 expressions have no prediction \(a/0, b/0\).*without --released"):
        RULES["refused"].left_out(ROWS)
    assert RULES["refused"].left_out(ROWS[1:2]) == set()


def test_every_table_with_public_truth_says_what_its_tool_does() -> None:
    silent = {"generic", "mevis_v2_u"}  # no tool, and none that is public
    for name in benchmark_names():
        benchmark = load_benchmark(name)
        assert bool(benchmark.missing) == (benchmark.scorer is not None and name not in silent), name
    assert "here each counts 0; the benchmark's own tool leaves them out" in in_words("left_out", False)
    assert in_words("", False) == ""


def test_missing_count_0_unless_scored_as_released(layouts: Any, tmp_path: Path) -> None:
    benchmark, root = load_benchmark("ref_sav"), layouts("ref_sav")
    samples = list(benchmark.samples(root))
    lost = samples[0]
    results = write_results(tmp_path, samples[1:])
    ours, theirs = (score_benchmark(results, benchmark, root, released=r) for r in (False, True))
    assert ours.jf < 100.0 and ours.missing == [lost.id] and ours.info["left_out"] == []
    assert theirs.jf == 100.0 and theirs.missing == [lost.id] == theirs.info["left_out"]
    assert theirs.overall.count == len(samples) - 1
    assert "own tool leaves them out of its means; --released scores as it does" in scores_table(ours, 400)
    table = scores_table(theirs, 400)
    assert "here likewise (--released)" in table and f"1 left out of the means: {lost.id}" in table
    assert "each counts 0:" not in table
    assert read_scores(write_scores(theirs, tmp_path / "out")[0]) == theirs
