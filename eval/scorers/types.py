"""Scores of a results file: one row an expression, means by group. Percent (0..100) throughout."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

METRICS = ("jf", "j", "f", "j_visible", "interval_iou", "keyframe_hit")
"""Names of a row's scores, in the order in which tables show them."""

TYPE_NAMES = {0: "referring", 1: "reasoning", 2: "no target", None: "untyped"}
"""ReVOS' ``type_id`` in words."""


@dataclass(frozen=True)
class Mean:
    """A mean, its standard error and how many values it rests on; both None where there are too few."""

    mean: float | None
    se: float | None
    n: int

    @staticmethod
    def of(values: Iterable[float | None]) -> Mean:
        """Over the values that are defined (a score that a clip cannot have is None, never 0)."""
        known = [value for value in values if value is not None]
        n = len(known)
        if n == 0:
            return Mean(None, None, 0)
        mean = math.fsum(known) / n
        if n == 1:
            return Mean(mean, None, 1)
        variance = math.fsum((value - mean) ** 2 for value in known) / (n - 1)
        return Mean(mean, math.sqrt(variance / n), n)


@dataclass(frozen=True)
class ExpressionScore:
    """One expression. A missing prediction scores 0 everywhere."""

    clip: str
    expression_id: str
    text: str
    kind: str
    type_id: int | None
    frames: int
    visible_frames: int
    """Frames in which a target shows."""
    missing: bool
    jf: float
    j: float
    f: float
    j_visible: float | None
    """J over the visible frames; None if there are none."""
    interval_iou: float | None
    """Of the last turn's interval with the visible frames; None if there are none, or for an answer of boxes."""
    keyframe_hit: float | None
    """100 if a target shows at the keyframe that the last turn chose; None if it never shows."""
    baselines: dict[str, float]
    """Baseline -> its J&F on this expression."""
    objects: int = 0
    """Annotated objects that the expression names."""
    failed: bool = False
    """There is a record, but of a dialogue that could not begin: it scores 0 as well."""
    unreadable: str = ""
    """Why the last reply could not be carried out; empty if it could."""
    extra: dict[str, float | None] = field(default_factory=dict)
    """What the benchmark's own scorer adds: accuracy, robustness, tiou, viou."""
    broken: bool = False
    """Its annotation cannot be used, by no rule of the benchmark: it scores 0."""
    tracks: list[list[float]] | None = None
    """IoU, 0..1, of each predicted track with each object, where the benchmark scores tracks."""

    @property
    def name(self) -> str:
        return f"{self.clip}/{self.expression_id}"

    def value(self, metric: str) -> float | None:
        """A score by name, wherever it stands; None where it is not defined."""
        found: float | None = self.extra[metric] if metric in self.extra else getattr(self, metric)
        return found


@dataclass(frozen=True)
class GroupScores:
    """Means over the expressions of one group."""

    name: str
    count: int
    metrics: dict[str, Mean]
    baselines: dict[str, Mean]
    margin: Mean
    """J&F less that of predicting nothing, expression by expression."""

    @staticmethod
    def of(name: str, rows: list[ExpressionScore]) -> GroupScores:
        known = dict.fromkeys(name for row in rows for name in row.baselines)
        baselines = {b: Mean.of(row.baselines.get(b) for row in rows) for b in known}
        margin = Mean.of(row.jf - row.baselines["nothing"] for row in rows if "nothing" in row.baselines)
        names = [*METRICS, *dict.fromkeys(name for row in rows for name in row.extra)]
        metrics = {m: Mean.of(row.value(m) for row in rows) for m in names}
        return GroupScores(name, len(rows), metrics, baselines, margin)

    @staticmethod
    def from_dict(d: dict[str, Any]) -> GroupScores:
        means = {key: {name: Mean(**mean) for name, mean in d[key].items()} for key in ("metrics", "baselines")}
        return GroupScores(d["name"], d["count"], means["metrics"], means["baselines"], Mean(**d["margin"]))


@dataclass(frozen=True)
class Scores:
    """What ``scores.json`` holds."""

    overall: GroupScores
    by_type: dict[str, GroupScores]
    by_kind: dict[str, GroupScores]
    expressions: list[ExpressionScore]
    missing: list[str]
    """Expressions without a prediction, by name; each counts 0 in the means."""
    info: dict[str, Any] = field(default_factory=dict)
    """Benchmark, protocol, frame counts, versions, date, seed."""
    groups: dict[str, dict[str, GroupScores]] = field(default_factory=dict)
    """A benchmark's groupings (``eval.scorers.grouping``), such as objects or clip_length -> label -> scores."""
    failed: list[str] = field(default_factory=list)
    """Expressions whose dialogue could not begin, by name; each counts 0 in the means."""
    broken: list[str] = field(default_factory=list)
    """What the data set is wrong about, by name: expressions, which count 0 in the means, or whole clips."""

    @property
    def jf(self) -> float:
        """Mean J&F over all expressions."""
        return self.overall.metrics["jf"].mean or 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(d: dict[str, Any]) -> Scores:

        def groups(named: dict[str, Any]) -> dict[str, GroupScores]:
            return {name: GroupScores.from_dict(group) for name, group in named.items()}

        return Scores(
            overall=GroupScores.from_dict(d["overall"]),
            by_type=groups(d["by_type"]),
            by_kind=groups(d["by_kind"]),
            expressions=[ExpressionScore(**row) for row in d["expressions"]],
            missing=d["missing"],
            info=d["info"],
            groups={grouping: groups(named) for grouping, named in d.get("groups", {}).items()},
            failed=d.get("failed", []),
            broken=d.get("broken", []),
        )
