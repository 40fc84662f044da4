"""``videoseg score`` as a user types it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.benchmarks import load_benchmark
from eval.scores.files import read_scores
from tests.eval.answers import disturbed, write_results
from verl_ext.cli.main import app


@pytest.fixture
def run(layouts: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """(the data set's folder, the run's folder)."""
    benchmark = load_benchmark("long_rvos")
    write_results(tmp_path / "run", benchmark.samples(layouts("long_rvos")), disturbed)
    return layouts("long_rvos"), tmp_path / "run"


def score(*words: object) -> str:
    out = CliRunner().invoke(app, ["score", *map(str, words)])
    assert out.exit_code == 0, out.output
    return out.stdout


def test_table_and_files(run: tuple[Path, Path]) -> None:
    root, folder = run
    table = score(folder, "--benchmark", "long_rvos", "--root", root, "--out", folder)
    scores = read_scores(folder / "scores.json")
    for words in ("long_rvos (long_rvos valid), percent", "tIoU", "vIoU", "interval", "keyframe", "static", "1 object"):
        assert words in table
    row = next(line for line in table.splitlines() if "overall" in line)
    for metric in ("jf", "j", "f", "tiou", "viou", "j_visible"):
        assert f"{scores.overall.metrics[metric].mean:.1f}" in row
    assert (
        "own tool counts 0 for a whole clip" in " ".join(table.split())
        and "published: VideoSEG-O3 2B: J&F 54.8" in table
    )
    assert max(len(line) for line in table.splitlines()) <= 120
    rows = list(csv.DictReader((folder / "scores.csv").open(newline="")))
    assert [float(r["viou"]) for r in rows] == [row.extra["viou"] for row in scores.expressions]
    again = score(folder / "results.jsonl", "--benchmark", "long_rvos", "--root", root, "--json", "--workers", 2)
    assert json.loads(again)["overall"] == json.loads((folder / "scores.json").read_text())["overall"]


def test_nothing_is_written_unless_asked(run: tuple[Path, Path]) -> None:
    root, folder = run
    score(folder, "--benchmark", "long_rvos", "--root", root)
    assert [path.name for path in folder.iterdir()] == ["results.jsonl"]


@pytest.mark.parametrize("what", ["--benchmark", "--dataset"])
def test_reasons_of_what_is_missing_are_shown(run: tuple[Path, Path], what: str) -> None:
    root, folder = run
    first, *rest = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(rest))
    key = {k: json.loads(first)[k] for k in ("clip", "expression_id")}
    (folder / "failed.jsonl").write_text(json.dumps({**key, "stage": "data", "reason": "frame 3 is no image"}) + "\n")
    (folder / "run.json").write_text(json.dumps({"protocol": {}, "seed": 1, "versions": {"vllm": "0.1"}}))
    out = score(folder, what, "long_rvos", "--root", root, "--out", folder / "s")
    assert "1 missing, each counts 0" in out and "(frame 3 is no image)" in " ".join(out.split())
    assert read_scores(folder / "s" / "scores.json").info["inference_versions"] == {"vllm": "0.1"}


def test_any_data_set_without_a_benchmark(run: tuple[Path, Path]) -> None:
    root, folder = run
    table = score(folder / "results.jsonl", "--dataset", "long_rvos", "--root", root, "--split", "valid")
    assert "largest object" in table and "tIoU" not in table
    plain = json.loads(score(folder, "--dataset", "long_rvos", "--root", root, "--json"))
    as_benchmark = json.loads(score(folder, "--benchmark", "long_rvos", "--root", root, "--json"))
    assert plain["overall"]["metrics"]["jf"] == as_benchmark["overall"]["metrics"]["jf"]
