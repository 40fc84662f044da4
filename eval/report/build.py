"""Put the page together: figures to words and charts, template to file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval.report.charts import Series, StageBar, kind_chart, line_chart, stacked_chart
from eval.report.clips import clip_views
from eval.report.inputs import ReportInput
from eval.report.page import facts, write_page
from eval.report.verdict import Verdict, change_in_words, judge, paired_change
from eval.scorers.baselines import NAMES
from eval.scorers.types import GroupScores, Scores

REWARD_TOTALS = ("mean", "total")
NOT_LEARNT = Verdict.NOT_LEARNT
NOT_A_PHASE = ("step", "total")
TITLES = {"seg_states": "old log-probs"}
"""What a phase is called where its name would not say it of every method."""


def build_report(run: ReportInput, out: Path) -> Path:
    """Write the page to ``out``, whole or not at all; returns its path.

    The page holds all it shows. Model text is escaped by the template engine, and a content policy in the page forbids
    scripts and outside addresses as well. Raises DataError for frames or masks that cannot be read.
    """
    return write_page("report.html", context(run), out)


def context(run: ReportInput) -> dict[str, Any]:
    """Everything that the templates see."""
    last = run.stages[-1] if run.stages else None
    kinds = _kind_rows(run)
    baselines = dict(run.baselines)
    if last and not baselines:
        baselines = {k: v.mean for k, v in last.scores.overall.baselines.items() if v.mean is not None}
    return {
        "run": run,
        "last": last,
        "baselines": [(NAMES.get(name, name), value) for name, value in baselines.items()],
        "nothing": baselines.get("nothing"),
        "changes": _changes(run),
        "kinds": kinds,
        "not_learnt": [
            row["name"].replace("_", " ")
            for row in kinds
            if row["judgement"] and row["judgement"].verdict is NOT_LEARNT
        ],
        "kind_chart": _kind_chart(run),
        "reward_total": line_chart("Mean reward of a rollout", _reward_total(run.rl_metrics), smooth=True),
        "reward_parts": _panels(run.rl_metrics, "reward/", skip=REWARD_TOTALS),
        "other_curves": _other_curves(run.rl_metrics),
        "stops": _stacked(run.rl_metrics, "stop/", "Why episodes ended", "", 1.0),
        "seconds": _stacked(run.rl_metrics, "seconds/", "Seconds of an RL step", "s", None, NOT_A_PHASE),
        "step_seconds": _step_seconds(run.summary),
        "clips": clip_views(run.stages),
        "record": record_facts(last.scores) if last else [],
    }


def record_facts(scores: Scores) -> list[tuple[str, str]]:
    """What the scores say about how they came about."""
    keys = ("benchmark", "dataset", "split", "date", "seed", "clips", "expressions", "frames", "frames_with_target")
    info = scores.info
    return facts({k: info[k] for k in keys if k in info} | {**info.get("protocol", {}), **info.get("versions", {})})


def _changes(run: ReportInput) -> list[tuple[str, str]]:
    pairs = list(zip(run.stages, run.stages[1:], strict=False))
    return [(f"{a.title} → {b.title}", change_in_words(paired_change(a.scores, b.scores))) for a, b in pairs]


def _kind_rows(run: ReportInput) -> list[dict[str, Any]]:
    """One row a kind of the last stage, the overall row last."""
    if not run.stages:
        return []
    scores = run.stages[-1].scores
    rows = []
    for name, group in [*scores.by_kind.items(), ("all", scores.overall)]:
        stages = [_group(stage.scores, name) for stage in run.stages]
        jf = [None if one is None else one.metrics["jf"] for one in stages]
        judgement = judge(group, run.learnt_at) if name != "all" else None
        rows.append({"name": name, "group": group, "jf": jf, "judgement": judgement})
    return rows


def _group(scores: Any, name: str) -> GroupScores | None:
    found: GroupScores | None = scores.overall if name == "all" else scores.by_kind.get(name)
    return found


def _kind_chart(run: ReportInput) -> Markup:
    if not run.stages:
        return Markup("")
    kinds = {}
    for name in [*run.stages[-1].scores.by_kind, "all"]:
        bars = []
        nothing = None
        for stage in run.stages:
            group = _group(stage.scores, name)
            mean = group.metrics["jf"] if group else None
            bars.append(StageBar(stage.title, mean.mean if mean else None, mean.se if mean else None))
            nothing = group.baselines["nothing"].mean if group and "nothing" in group.baselines else nothing
        kinds[name.replace("_", " ")] = (bars, nothing)
    return kind_chart("J&F on held-out clips by kind of expression", kinds)


def _names(metrics: Sequence[Mapping[str, float]], prefix: str, skip: Sequence[str] = ()) -> list[str]:
    keys = dict.fromkeys(key for row in metrics for key in row if key.startswith(prefix))
    return [key for key in keys if key.removeprefix(prefix) not in skip]


def _steps(metrics: Sequence[Mapping[str, float]]) -> list[float]:
    return [float(row.get("step", i)) for i, row in enumerate(metrics, start=1)]


def _values(metrics: Sequence[Mapping[str, float]], key: str) -> list[float]:
    return [float(row.get(key, math.nan)) for row in metrics]


def _reward_total(metrics: Sequence[Mapping[str, float]]) -> list[Series]:
    return [Series("reward", _steps(metrics), _values(metrics, "reward/mean"))]


def _panels(metrics: Sequence[Mapping[str, float]], prefix: str, skip: Sequence[str] = ()) -> list[Markup]:
    steps = _steps(metrics)
    panels = []
    for key in _names(metrics, prefix, skip):
        title = key.removeprefix(prefix).replace("_", " ")
        panels.append(line_chart(title, [Series(title, steps, _values(metrics, key))], small=True, smooth=True))
    return [panel for panel in panels if panel]


def _other_curves(metrics: Sequence[Mapping[str, float]]) -> list[Markup]:
    kl = line_chart("KL to the reference", [Series("KL", _steps(metrics), _values(metrics, "kl"))], small=True)
    return [panel for panel in (kl, *_panels(metrics, "loss/")) if panel]


def _stacked(
    metrics: Sequence[Mapping[str, float]],
    prefix: str,
    caption: str,
    unit: str,
    top: float | None,
    skip: Sequence[str] = (),
) -> Markup:
    parts = {_title(key.removeprefix(prefix)): _values(metrics, key) for key in _names(metrics, prefix, skip)}
    sums = [math.fsum(v for v in row if math.isfinite(v)) for row in zip(*parts.values(), strict=True)]
    if top is not None and max(sums, default=0.0) > 1.001 * top:
        top = None  # counts of episodes instead of shares
    return stacked_chart(caption, _steps(metrics), parts, unit, top)


def _step_seconds(summary: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(phase, seconds, share of the step)."""
    phases = {k: float(v) for k, v in (summary.get("step_seconds") or {}).items() if k not in NOT_A_PHASE}
    total = math.fsum(phases.values()) or 1.0
    return [(_title(name), value, 100 * value / total) for name, value in phases.items()]


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))
