"""One command scores every benchmark in its data set's exact layout: perfect, empty and disturbed answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.benchmarks import Benchmark, load_benchmark
from eval.scores.benchmark import score_benchmark
from rollout.frames import evenly_spaced
from rollout.types import Sample
from tests.eval.answers import Masks, disturbed, nothing, plain_score, truth, write_results
from tests.eval.benchmarks.test_benchmarks import SCORED

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
        if metric != "interval_iou":  # the target of some clips leaves in between
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
        want = plain_score(sample, masks(sample), foreground_of(benchmark, root, sample))
        for metric in ("jf", "j", "f", *row.extra):
            assert row.value(metric) == pytest.approx(100 * want[metric], abs=1e-9), (sample.id, metric)
        if masks is nothing:
            absent = 1 - row.visible_frames / row.frames
            assert row.j == pytest.approx(100 * absent, abs=1e-9) and row.jf == row.baselines["nothing"]
    if name != "revos":
        rows = scores.expressions
        assert scores.jf == pytest.approx(np.mean([row.jf for row in rows]), abs=1e-9)


def test_kinds_are_the_benchmarks_own(layouts: Layouts, tmp_path: Path) -> None:
    for name, kinds in (
        ("ref_sav", {"long", "short"}),
        ("long_rvos", {"static", "dynamic", "hybrid"}),
        ("groundmore", {"Causal", "Sequential", "Counterfactual", "Descriptive"}),
    ):
        benchmark = load_benchmark(name)
        samples = list(benchmark.samples(layouts(benchmark.dataset)))
        scores = score_benchmark(write_results(tmp_path / name, samples), benchmark, layouts(benchmark.dataset))
        assert set(scores.groups["kind"]) <= kinds and len(scores.groups["kind"]) >= 2, name


def test_groundmore_counts_masks_only_during_the_action(layouts: Layouts, tmp_path: Path) -> None:
    benchmark = replace(load_benchmark("groundmore"), frames=5)  # the layout's clips are shorter than 20
    root = layouts("groundmore")
    samples = list(benchmark.samples(root))
    shorter = 0
    for sample in samples:
        whole = benchmark.dataset_at(root).get(sample.clip.name, sample.expression.id)
        first, last = (int(n) for n in sample.expression.anno_ids[0].split("@")[1].split("-"))
        outside = [t for t in range(whole.clip.num_frames) if not first <= t <= last]
        shorter += bool(outside)
        assert whole.clip.num_frames > 5 and not truth(whole)[outside].any()
        keep = evenly_spaced(0, whole.clip.num_frames - 1, 5)
        assert np.array_equal(truth(sample), truth(whole)[keep]) and len(keep) == sample.clip.num_frames == 5
    assert shorter > 0
    scores = score_benchmark(write_results(tmp_path, samples), benchmark, root)
    assert scores.jf == 100.0 and scores.info["frames"] == 5 * len(samples)
