"""The page of two results side by side: the differences, and the expressions that gain and lose the most, drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.benchmarks import Benchmark
from eval.report.charts import histogram
from eval.report.choice import Chosen
from eval.report.clips import views_of
from eval.report.compare import Comparison, Row
from eval.report.compare_files import in_words
from eval.report.evaluation import group_chart, sections
from eval.report.inputs import ReportStage
from eval.report.page import write_page
from eval.results.index import index_results, read_record
from eval.scorers.types import Scores
from eval.scores.words import HEADINGS
from rollout.types import Sample

SAME = 1e-9
"""Points of percent."""


@dataclass(frozen=True)
class Side:
    """One of the two results."""

    title: str
    results: Path
    scores: Scores


def build_comparison_report(
    comparison: Comparison, sides: tuple[Side, Side], benchmark: Benchmark, root: Path, out: Path, shown: int = 4
) -> Path:
    """Write the page to ``out``: ``shown`` gains and as many losses drawn with both masks and both dialogues.

    Raises DataError for frames or masks that cannot be read.
    """
    drawn = [*comparison.gains(shown), *comparison.losses(shown)]
    chosen = _chosen(comparison, drawn, sides[1].scores)
    dataset = benchmark.dataset_at(root)
    samples = [benchmark.sample(dataset, row.clip, row.expression_id, by_rule=True) for row, _ in chosen]
    stages = [_stage(letter, side, samples) for letter, side in zip("AB", sides, strict=True)]
    changes = [row.change for row in comparison.rows]
    moved = [change for change in changes if abs(change) > SAME]
    reach = 20 * math.ceil(max((abs(change) for change in moved), default=1.0) / 20)
    grouped = [sections(side.scores) for side in sides]
    context = {
        "title": f"{benchmark.name}: {sides[0].title} (A) and {sides[1].title} (B)",
        "sides": sides,
        "comparison": comparison,
        "headline": HEADINGS.get(comparison.headline, comparison.headline),
        "overall": comparison.overall,
        "words": in_words(comparison),
        "spread": histogram(
            f"Change of J&F ({len(changes) - len(moved)} expressions without any are left out)",
            moved,
            -reach,
            reach,
            "J&F of B less that of A",
            zero=True,
        ),
        "charts": [
            group_chart(f"J&F by {name}", [("A", groups), ("B", grouped[1].get(name, {}))])
            for name, groups in grouped[0].items()
            if len(groups) > 1
        ],
        "clip_rows": sorted(comparison.clips, key=lambda row: (-row.change, row.clip)),
        "clips": views_of(chosen, stages, stages),
    }
    return write_page("comparison.html", context, out)


def _chosen(comparison: Comparison, drawn: Sequence[Row], scores: Scores) -> Chosen:
    """Rows that at least one side has predicted, with the change as their label."""
    by_name = {row.name: row for row in scores.expressions}
    out: Chosen = []
    for row in drawn:
        if not (row.missing_a and row.missing_b) and not by_name[row.name].broken:
            missing = [f"no prediction in {s}" for s, gone in (("A", row.missing_a), ("B", row.missing_b)) if gone]
            out.append(
                (by_name[row.name], [f"B {'gains' if row.change > 0 else 'loses'} {abs(row.change):.1f}", *missing])
            )
    return out


def _stage(letter: str, side: Side, samples: Sequence[Sample]) -> ReportStage:
    places = index_results(side.results)
    with side.results.open("rb") as file:
        keys = [(sample.clip.name, sample.expression.id) for sample in samples]
        records = [read_record(file, side.results, key, places[key]) for key in keys if key in places]
    return ReportStage(letter, f"{letter}, {side.title}", side.scores, records, samples)
