"""One command scores every benchmark in its data set's exact layout: perfect, empty and disturbed answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.benchmarks import Benchmark, load_benchmark
from eval.results.results_file import ResultsFile
from eval.scores.benchmark import score_benchmark
from eval.scores.files import scores_table
from rollout.types import Sample
from tests.eval.answers import Masks, answer, disturbed, nothing, plain_score, truth, write_results
from tests.eval.benchmarks.test_benchmarks import SCORED

TRACKS = ("map", "ap50", "ap75", "ap90")
Layouts = Callable[[str], Path]


def foreground_of(benchmark: Benchmark, root: Path, sample: Sample) -> Masks | None:
    found = benchmark.dataset_at(root).foreground(sample.clip.name)
    return None if found is None else np.stack([found.union(t) for t in range(found.num_frames)])


@pytest.mark.parametrize("name", SCORED)
def test_perfect_answers_score_100_in_every_layout(name: str, layouts: Layouts, tmp_path: Path) -> None:
    benchmark = load_benchmark(name)
    root = layouts(benchmark.dataset)
    samples = list(benchmark.samples(root))
    scores = score_benchmark(write_results(tmp_path, samples), benchmark, root)
    assert [row.name for row in scores.expressions] == [s.id for s in samples] and not scores.missing
    for metric, mean in scores.overall.metrics.items():
        # The target of some clips leaves in between; ViCaS' tracks want objects one by one, see below.
        if metric != "interval_iou" and metric not in TRACKS:
            assert mean.mean in (100.0, None), metric
    assert scores.overall.metrics["jf"].n > 0 and scores.overall.metrics["keyframe_hit"].mean == 100.0
    assert list(scores.groups) == list(benchmark.groups)


@pytest.mark.parametrize("masks", [nothing, disturbed])
@pytest.mark.parametrize("name", SCORED)
def test_other_answers_score_by_the_definitions(name: str, masks: Any, layouts: Layouts, tmp_path: Path) -> None:
    benchmark = load_benchmark(name)
    root = layouts(benchmark.dataset)
    samples = list(benchmark.samples(root))
    scores = score_benchmark(write_results(tmp_path, samples, masks), benchmark, root, exact=True)
    for sample, row in zip(samples, scores.expressions, strict=True):
        counted = benchmark.scored_frames(benchmark.dataset_at(root), sample)
        want = plain_score(sample, masks(sample), foreground_of(benchmark, root, sample), counted)
        for metric in ("jf", "j", "f", *(m for m in row.extra if m in want)):
            assert row.value(metric) == pytest.approx(100 * want[metric], abs=1e-9), (sample.id, metric)
        if masks is nothing and counted is None:
            absent = 1 - row.visible_frames / row.frames
            assert row.j == pytest.approx(100 * absent, abs=1e-9) and row.jf == row.baselines["nothing"]
    rows = scores.expressions
    parts = [[row.jf for row in rows if row.kind == kind] for kind in ("long", "short")] if name == "ref_sav" else []
    if name != "revos":
        right = np.mean([np.mean(part) for part in parts or [[row.jf for row in rows]]])
        assert scores.jf == pytest.approx(right, abs=1e-9)


def test_kinds_are_the_benchmarks_own(layouts: Layouts, tmp_path: Path) -> None:
    for name, kinds in (
        ("ref_sav", {"long", "short"}),
        ("long_rvos", {"static", "dynamic", "static+dynamic"}),
        ("groundmore", {"Causal", "Sequential", "Counterfactual", "Descriptive"}),
    ):
        benchmark = load_benchmark(name)
        samples = list(benchmark.samples(layouts(benchmark.dataset)))
        scores = score_benchmark(write_results(tmp_path / name, samples), benchmark, layouts(benchmark.dataset))
        assert set(scores.groups["kind"]) <= kinds and len(scores.groups["kind"]) >= 2, name


def test_groundmore_counts_masks_only_during_the_action(layouts: Layouts, tmp_path: Path) -> None:
    """And of these in the scored frames only: what is drawn elsewhere costs nothing."""
    benchmark = replace(load_benchmark("groundmore"), frames=5)
    root = layouts("groundmore")
    samples = list(benchmark.samples(root))
    shorter = 0
    for sample in samples:
        first, last = (int(n) for n in sample.expression.anno_ids[0].split("@")[1].split("-"))
        outside = [t for t in range(sample.clip.num_frames) if not first <= t <= last]
        shorter += bool(outside)
        assert sample.clip.num_frames > 5 and not truth(sample)[outside].any()
    assert shorter > 0

    def noisy_between(sample: Sample) -> Masks:
        masks = truth(sample)
        kept = np.linspace(0, len(masks) - 1, 5, dtype=int)
        masks[np.setdiff1d(np.arange(len(masks)), kept)] = True
        return masks

    scores = score_benchmark(write_results(tmp_path, samples, noisy_between), benchmark, root)
    assert scores.jf == 100.0 and scores.info["scored_frames"] == 5


def test_vicas_wants_objects_one_by_one(layouts: Layouts, tmp_path: Path) -> None:
    """An object that is seen in no annotated frame is a true track that nothing can match: so the tool has it."""
    benchmark, root = load_benchmark("vicas_val"), layouts("vicas")
    samples = list(benchmark.samples(root))
    with ResultsFile(tmp_path / "results.jsonl") as results:
        for sample in samples:
            assert sample.masklets is not None
            results.append(replace(answer(sample, truth(sample)), objects=sample.masklets.rles))
    scores = score_benchmark(tmp_path / "results.jsonl", benchmark, root)
    tracks = [rles[0] is not None for s in samples if s.masklets for rles in s.masklets.rles]
    assert 0 < sum(tracks) < len(tracks), "the first frame alone is annotated in clips of less than a second"
    hits = np.cumsum(tracks)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    right = 100 * float(precision[np.array(tracks)].sum()) / len(tracks)
    assert scores.overall.metrics["map"].mean == pytest.approx(right)
    assert scores_table(scores, 400).index("track mAP") < scores_table(scores, 400).index("J&F (ours)")


def test_ref_davis17_has_both_protocols(layouts: Layouts, tmp_path: Path) -> None:
    """Every object's masks given for the next one: wrong by expression, right after matching."""
    benchmark, root = load_benchmark("ref_davis17"), layouts("ref_davis17")
    samples = list(benchmark.samples(root))

    def swapped(sample: Sample) -> Masks:
        same = [s for s in samples if s.clip.name == sample.clip.name]
        return truth(same[(same.index(sample) + 4) % len(same)])

    scores = score_benchmark(write_results(tmp_path, samples, swapped), benchmark, root, workers=1)
    visible_first = {(s.clip.name, s.expression.anno_ids) for s in samples if truth(s)[0].any()}
    assert visible_first and scores.jf < 100.0
    first = next(s.clip.name for s in samples)
    if all((s.clip.name, s.expression.anno_ids) in visible_first for s in samples if s.clip.name == first):
        rows = [row for row in scores.expressions if row.clip == first]
        assert {row.value("davis_jf") for row in rows} == {100.0}
    assert "DAVIS J&F" in scores_table(scores, 400) and "mean of four annotators" in scores_table(scores, 400)


def test_mevis_v2_knows_who_has_no_target(layouts: Layouts, tmp_path: Path) -> None:
    benchmark, root = load_benchmark("mevis_v2_u"), layouts("mevis_v2")
    samples = list(benchmark.samples(root))
    absent = [s for s in samples if not s.expression.anno_ids]
    present = [s for s in samples if s.expression.anno_ids]
    assert absent and present
    everywhere = lambda s: ~nothing(s)  # noqa: E731
    for masks, n_acc, t_acc in ((truth, 100.0, 100.0), (nothing, 100.0, 0.0), (everywhere, 0.0, 100.0)):
        results = write_results(tmp_path / masks.__name__, samples, masks)
        scores = score_benchmark(results, benchmark, root, workers=1)
        found = scores.overall.metrics
        assert (found["n_acc"].mean, found["t_acc"].mean) == (n_acc, t_acc)
        assert (found["n_acc"].n, found["t_acc"].n) == (len(absent), len(present))
        assert list(scores.groups["target"]) == ["with a target", "no target"]
        assert scores.groups["target"]["no target"].metrics["j"].mean == n_acc
        assert scores.overall.count == len(samples) == sum(g.count for g in scores.groups["target"].values())
    lost = write_results(tmp_path / "lost", present)
    scores = score_benchmark(lost, benchmark, root, workers=1)
    assert scores.overall.metrics["n_acc"].mean == 0.0 and scores.overall.metrics["t_acc"].mean == 100.0
