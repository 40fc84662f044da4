"""The page of one evaluation: tables, charts by group, best and worst clips with their dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval.report.build import record_facts
from eval.report.charts import StageBar, histogram, kind_chart
from eval.report.choice import Chosen
from eval.report.clips import views_of
from eval.report.inputs import ReportStage
from eval.report.page import write_page
from eval.report.verdict import change_in_words, paired_change
from eval.scorers.baselines import NAMES
from eval.scorers.types import ExpressionScore, GroupScores, Scores
from eval.scores.files import reply_lines
from eval.scores.words import headings_of, metric_names, published_of, remarks
from rollout.spoilt import WAYS


@dataclass(frozen=True)
class Dialogues:
    """How all dialogues of a results file went."""

    stops: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Why a dialogue ended -> the expressions."""
    turns: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """How many turns -> the expressions."""
    tokens: float = 0.0
    """Mean number of tokens that the policy wrote."""


@dataclass(frozen=True)
class EvaluationPage:
    """All that the page shows."""

    title: str
    stage: ReportStage
    """Scores of everything; records, and where the data are at hand samples, of the chosen expressions."""
    chosen: Chosen
    dialogues: Dialogues = field(default_factory=Dialogues)
    notes: Sequence[str] = ()
    spoilt: Mapping[str, Scores] = field(default_factory=dict)
    """``videoseg eval --images``: scores of the same dialogues on spoilt pictures, by the way they were spoilt."""


def build_evaluation_report(page: EvaluationPage, out: Path) -> Path:
    """Write the page to ``out``; it needs neither a network nor a script.

    Raises DataError for frames or masks that cannot be read.
    """
    scores = page.stage.scores
    published = {method: values for method, values in published_of(scores).items() if values}
    missing = {row.name: row for row in scores.expressions if row.missing or row.failed or row.broken}
    headline = scores.info.get("headline", "jf")
    context = {
        "page": page,
        "scores": scores,
        "overall": scores.overall,
        "metrics": metric_names(scores),
        "baselines": [(name, NAMES.get(name, name)) for name in scores.overall.baselines],
        "headings": headings_of(scores),
        "headline": headline if headline in scores.overall.metrics else "jf",
        "remarks": list(remarks(scores)),
        "sections": sections(scores),
        "looks": looks(scores, page.spoilt),
        "replies": list(reply_lines(scores)),
        "published": published,
        "published_metrics": list(dict.fromkeys(name for values in published.values() for name in values)),
        "charts": [
            group_chart(f"J&F by {name}", [("", groups)])
            for name, groups in sections(scores).items()
            if len(groups) > 1
        ],
        "spread": histogram(
            "Expressions by J&F", [row.jf for row in scores.expressions], 0, 100, "J&F of an expression, percent"
        ),
        "stops": _outcomes(page.dialogues.stops, scores),
        "turns": _outcomes({f"{n} turn{'s' if n != 1 else ''}": v for n, v in page.dialogues.turns.items()}, scores),
        "missing": [(name, _reason(row, scores)) for name, row in missing.items()],
        "clips": views_of(page.chosen, [page.stage], [page.stage]),
        "record": record_facts(scores),
    }
    return write_page("evaluation.html", context, out)


def sections(scores: Scores) -> dict[str, dict[str, GroupScores]]:
    """Grouping -> label -> scores: the benchmark's own, and types and kinds where the data set has them."""
    named = dict(scores.groups)
    if len(scores.by_type) > 1:
        named.setdefault("type", scores.by_type)
    if len(scores.by_kind) > 1 and set(scores.by_kind) != set(scores.by_type):
        named.setdefault("kind", scores.by_kind)
    return {name.replace("_", " "): groups for name, groups in named.items()}


def looks(scores: Scores, spoilt: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """One row for each way to spoil the pictures: J&F, and what seeing the true ones adds over the same expressions."""
    return [
        {
            "way": way,
            "about": WAYS[way].about if way in WAYS else "",
            "jf": other.overall.metrics["jf"],
            "gain": change_in_words(paired_change(other, scores)),
        }
        for way, other in spoilt.items()
    ]


def group_chart(caption: str, stages: Sequence[tuple[str, Mapping[str, GroupScores]]]) -> Markup:
    """Bars of J&F by label, one a stage, beside predicting nothing."""
    kinds: dict[str, tuple[list[StageBar], float | None]] = {}
    for label in dict.fromkeys(label for _, groups in stages for label in groups):
        bars, nothing = [], None
        for title, groups in stages:
            group = groups.get(label)
            mean = group.metrics["jf"] if group else None
            bars.append(StageBar(title or "J&F", mean.mean if mean else None, mean.se if mean else None))
            if group and "nothing" in group.baselines:
                nothing = group.baselines["nothing"].mean
        kinds[label.replace("_", " ")] = (bars, nothing)
    return kind_chart(caption, kinds)


def _outcomes(named: Mapping[str, Sequence[str]], scores: Scores) -> list[dict[str, Any]]:
    """Rows of (what, how many, share, their mean J&F), the most frequent first."""
    jf = {row.name: row.jf for row in scores.expressions}
    total = sum(len(names) for names in named.values()) or 1
    rows = []
    for what, names in sorted(named.items(), key=lambda item: -len(item[1])):
        known = [jf[name] for name in names if name in jf]
        mean = sum(known) / len(known) if known else None
        rows.append({"what": what.replace("_", " "), "n": len(names), "share": 100 * len(names) / total, "jf": mean})
    return rows


def _reason(row: ExpressionScore, scores: Scores) -> str:
    why = scores.info.get("broken", {}).get(row.name) or scores.info.get("failures", {}).get(row.name)
    return str(why) if why else ("the dialogue could not begin" if row.failed else "no result")
