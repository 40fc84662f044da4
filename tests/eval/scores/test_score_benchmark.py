"""A benchmark from its files: the ReVOS golden values, groups, what is missing, processes, memory."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import Benchmark, load_benchmark
from eval.results.results_file import ResultsFile
from eval.results.run_info import read_run_info
from eval.scorers.types import Scores
from eval.scores.benchmark import score_benchmark
from eval.scores.files import read_scores, scores_csv, scores_table, write_scores
from eval.scores.pool import map_unordered
from rollout.errors import DataError, WorkerError
from rollout.types import Sample, StopReason
from tests.eval.answers import answer, disturbed, truth, write_results
from tests.eval.benchmarks.test_benchmarks import SUBMITTED
from tests.golden_checks.revos_scores import METRICS, write_folder

GOLDEN = Path(__file__).parents[2] / "golden_files" / "revos_scores.json"


# ---- ReVOS against the released tool ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """(root in ReVOS layout, results.jsonl, expected) of the golden file."""
    data = json.loads(GOLDEN.read_text())
    root = tmp_path_factory.mktemp("golden")
    return root, write_folder(data, root), data["expected"]


def test_revos_equals_the_released_tools_table(golden: tuple[Path, Path, dict[str, Any]]) -> None:
    root, results, expected = golden
    scores = score_benchmark(results, load_benchmark("revos"), root)
    rows = {row["videxp"]: row for row in expected["per_expression"]}
    for row in scores.expressions:
        for official, ours in METRICS.items():
            assert row.value(ours) == pytest.approx(rows[f"{row.clip}_{row.expression_id}"][official], abs=1e-6)
    groups = {**scores.groups["type"], "reason": scores.groups["type"]["reasoning"], "overall": scores.overall}
    for group, want in expected["summary"].items():
        for official, ours in METRICS.items():
            assert groups[group].metrics[ours].mean == pytest.approx(want[official], abs=1e-6), (group, official)
    assert scores.groups["type"]["no target"].count == 2
    assert scores.overall.count == len(scores.expressions) - 2


def test_exact_keeps_the_digits_that_the_tool_rounds(golden: tuple[Path, Path, dict[str, Any]]) -> None:
    root, results, _ = golden
    rounded, exact = (score_benchmark(results, load_benchmark("revos"), root, exact=e) for e in (False, True))
    assert all(row.jf == round(row.jf, 2) for row in rounded.expressions)
    assert any(row.jf != round(row.jf, 2) for row in exact.expressions)
    assert 0 < abs(exact.jf - rounded.jf) < 0.01
    assert (rounded.info["rounding"], exact.info["rounding"]) == (2, None)


# ---- missing, failed, groups, files -------------------------------------------------------------------------------


@pytest.fixture
def mevis(layouts: Any) -> tuple[Benchmark, Path, list[Sample]]:
    benchmark = load_benchmark("mevis_u")
    return benchmark, layouts("mevis"), list(benchmark.samples(layouts("mevis")))


def test_missing_and_failed_count_zero_and_are_named(
    mevis: tuple[Benchmark, Path, list[Sample]], tmp_path: Path
) -> None:
    benchmark, root, samples = mevis
    records = [answer(s, truth(s)) for s in samples[1:]]
    records[0] = replace(records[0], stop=StopReason.REFUSED_CLIP, turns=())
    with ResultsFile(tmp_path / "results.jsonl") as results:
        for record in records:
            results.append(record)
    reason = {"clip": samples[0].clip.name, "expression_id": samples[0].expression.id, "stage": "x", "reason": "no GPU"}
    (tmp_path / "failed.jsonl").write_text(json.dumps(reason) + '\n{"torn')
    scores = score_benchmark(tmp_path / "results.jsonl", benchmark, root, run=read_run_info(tmp_path / "results.jsonl"))
    assert scores.missing == [samples[0].id] and scores.failed == [samples[1].id]
    assert scores.overall.count == len(samples)
    assert scores.jf == pytest.approx(100 * (len(samples) - 2) / len(samples))
    assert scores.overall.metrics["keyframe_hit"].mean == pytest.approx(100 * (len(samples) - 2) / len(samples))
    table = " ".join(scores_table(scores, width=400).split())
    assert f"1 missing, each counts 0: {samples[0].id} (no GPU)" in table
    assert f"1 failed, each counts 0: {samples[1].id}" in table
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    nobody = score_benchmark(empty, benchmark, root)
    assert nobody.jf == 0.0 and len(nobody.missing) == len(samples)


def test_a_draw_is_scored_by_the_benchmarks_own_scorer(golden: tuple[Path, Path, dict[str, Any]]) -> None:
    root, results, _ = golden
    whole = score_benchmark(results, load_benchmark("revos"), root, workers=1)
    drawn = [row for row in whole.expressions if row.clip in ("vid02", "vid05")][1:]
    keys = [(row.clip, row.expression_id) for row in drawn]
    scores = score_benchmark(results, load_benchmark("revos"), root, workers=1, keys=keys)
    assert scores.expressions == drawn and scores.missing == []
    assert scores.overall.metrics["robustness"].mean is not None and "clip_length" in scores.groups
    assert scores.info["note"].startswith(f"a draw of {len(drawn)} expressions; overall is the mean of")


def test_files_say_how_they_came_about(mevis: tuple[Benchmark, Path, list[Sample]], tmp_path: Path) -> None:
    benchmark, root, samples = mevis
    results = write_results(tmp_path, samples, disturbed)
    (tmp_path / "run.json").write_text(json.dumps({"protocol": {"max_turns": 3}, "seed": 11}))
    scores = score_benchmark(results, benchmark, root, run=read_run_info(results))
    json_path, _ = write_scores(scores, tmp_path / "out")
    assert read_scores(json_path) == scores
    info = json.loads(json_path.read_text())["info"]
    assert (info["benchmark"], info["split"], info["scorer"]) == ("mevis_u", "valid_u", "jf")
    assert (info["protocol"], info["seed"]) == ({"max_turns": 3}, 11)
    assert info["frames_by_clip"] == {s.clip.name: s.clip.num_frames for s in samples}
    assert {"numpy", "numba", "pycocotools", "python", "videoseg-rl"} <= set(info["versions"])
    assert read_run_info(json_path.parent / "results.jsonl").seed == 11  # carried on when scored again in place
    header = scores_csv(scores).splitlines()[0].split(",")
    assert {"clip", "expression_id", "objects", "jf", "missing", "failed", "baseline_nothing"} <= set(header)


def test_groups_add_up(golden: tuple[Path, Path, dict[str, Any]]) -> None:
    root, results, _ = golden
    scores = score_benchmark(results, load_benchmark("revos"), root)
    assert list(scores.groups["type"]) == ["referring", "reasoning", "no target"]
    assert list(scores.groups["objects"]) == ["1 object", "2 objects", "3 and more", "no target"]
    assert list(scores.groups["clip_length"]) == ["1 to 50 frames", "no target"]
    for groups in scores.groups.values():
        assert sum(group.count for group in groups.values()) == len(scores.expressions)


# ---- processes ----------------------------------------------------------------------------------------------------


def same(a: Scores, b: Scores) -> bool:
    return replace(a, info={}) == replace(b, info={})


def test_processes_give_the_same_scores(
    golden: tuple[Path, Path, dict[str, Any]], layouts: Any, tmp_path: Path
) -> None:
    root, results, _ = golden
    one, two = (score_benchmark(results, load_benchmark("revos"), root, workers=n) for n in (1, 2))
    assert same(one, two)
    benchmark = load_benchmark("long_rvos")  # masks in a folder: read in the processes
    samples = list(benchmark.samples(layouts("long_rvos")))
    results = write_results(tmp_path, samples, disturbed)
    one, two = (score_benchmark(results, benchmark, layouts("long_rvos"), workers=n) for n in (1, 2))
    assert same(one, two)


def test_errors_come_back_from_processes_whole(golden: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    root, results, _ = golden
    lines = results.read_text().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_text("".join([*lines[:-1], lines[-1].replace('"size":[60,80]', '"size":[60,81]')]))
    with pytest.raises(DataError, match="vid07/1, prediction, frame 0"):
        score_benchmark(tmp_path / "r.jsonl", load_benchmark("revos"), root, workers=2)


def test_jobs_are_read_no_faster_than_they_are_done() -> None:
    read: list[int] = []

    def jobs() -> Iterator[int]:
        for i in range(40):
            read.append(i)
            yield i

    most = 0
    for done, (_, _) in enumerate(map_unordered(abs, jobs(), 2), start=1):
        most = max(most, len(read) - done)
    assert len(read) == 40 and most <= 5


def test_a_dead_process_is_said() -> None:
    with pytest.raises(WorkerError, match="fewer --workers"):
        list(map_unordered(os._exit, iter([3, 3]), 2))


def test_progress_counts_clips(golden: tuple[Path, Path, dict[str, Any]]) -> None:
    root, results, _ = golden
    told: list[tuple[int, int, str]] = []
    score_benchmark(results, load_benchmark("revos"), root, workers=1, progress=lambda *args: told.append(args))
    assert told[0] == (0, 8, "scoring") and told[-1] == (8, 8, "scoring vid07") and len(told) == 9


@pytest.mark.parametrize("name", SUBMITTED)
def test_server_scored_benchmarks_say_so(name: str, tmp_path: Path) -> None:
    benchmark = load_benchmark(name)
    with pytest.raises(DataError, match=r"no public ground truth.*submit"):
        score_benchmark(tmp_path / "results.jsonl", benchmark, tmp_path)


def test_memory_holds_one_record_at_a_time(mevis: tuple[Benchmark, Path, list[Sample]], tmp_path: Path) -> None:
    benchmark, root, samples = mevis
    text = "x" * 2_000_000
    with ResultsFile(tmp_path / "results.jsonl") as results:
        for sample in samples:
            record = answer(sample, truth(sample))
            results.append(replace(record, turns=(replace(record.turns[0], text=text),)))
    size = (tmp_path / "results.jsonl").stat().st_size
    tracemalloc.start()
    scores = score_benchmark(tmp_path / "results.jsonl", benchmark, root, workers=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert scores.jf == 100.0 and peak < 4 * len(text) <= size / 2
