"""Two results of one benchmark side by side: the difference per expression and clip, and if it is more than chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.scorers.grouping import GROUPINGS, grouped
from eval.scorers.types import ExpressionScore, Mean, Scores
from rollout.errors import DataError

RESAMPLES, SEED = 10_000, 0
INTERVAL = 95
"""Percent of the bootstrap's means that the interval holds."""


@dataclass(frozen=True)
class Difference:
    """B less A, paired, in points of percent."""

    a: float
    b: float
    mean: Mean
    """With the standard error over expressions."""
    low: float | None
    high: float | None
    """The 95 % interval by resampling clips; None for one clip. Expressions of a clip go together: they share frames
    and objects, and are no independent witnesses."""
    clips: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Row:
    """One expression in both results; a missing prediction counts 0."""

    clip: str
    expression_id: str
    text: str
    kind: str
    jf_a: float
    jf_b: float
    j_a: float
    j_b: float
    f_a: float
    f_b: float
    missing_a: bool
    missing_b: bool

    @property
    def name(self) -> str:
        return f"{self.clip}/{self.expression_id}"

    @property
    def change(self) -> float:
        """J&F of B less that of A."""
        return self.jf_b - self.jf_a


@dataclass(frozen=True)
class ClipRow:
    """One clip: means over its expressions."""

    clip: str
    expressions: int
    jf_a: float
    jf_b: float

    @property
    def change(self) -> float:
        return self.jf_b - self.jf_a


@dataclass(frozen=True)
class Comparison:
    """What ``videoseg compare`` found."""

    rows: list[Row]
    clips: list[ClipRow]
    overall: Difference
    """Over all expressions, each counting the same."""
    headline: str
    """The benchmark's own first metric: J&F, or ViCaS' track mAP."""
    headline_a: float
    headline_b: float
    """Its values; ReVOS', for one, is a mean of groups."""
    groups: dict[str, dict[str, Difference]]
    """Grouping -> label -> difference."""

    def gains(self, most: int) -> list[Row]:
        """The expressions that B does better, the largest difference first."""
        return sorted((r for r in self.rows if r.change > 0), key=lambda r: (-r.change, r.name))[:most]

    def losses(self, most: int) -> list[Row]:
        """The expressions that B does worse, the largest difference first."""
        return sorted((r for r in self.rows if r.change < 0), key=lambda r: (r.change, r.name))[:most]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **asdict(self),
            "rows": [{**asdict(row), "change": row.change} for row in self.rows],
            "clips": [{**asdict(clip), "change": clip.change} for clip in self.clips],
        }


def compare_scores(a: Scores, b: Scores, groups: Sequence[str] = ()) -> Comparison:
    """Both results' scores on the same benchmark; ``groups`` names groupings (``eval.scorers.grouping``).

    Raises DataError if they were not scored on the same expressions.
    """
    second = {row.name: row for row in b.expressions}
    lacking = [row.name for row in a.expressions if row.name not in second]
    if lacking or len(second) != len(a.expressions):
        extra = sorted(second.keys() - {row.name for row in a.expressions})
        raise DataError(
            f"the two results were not scored on the same expressions: {len(lacking)} only in A {lacking[:3]}, "
            f"{len(extra)} only in B {extra[:3]}; score both on one benchmark and split"
        )
    rows = [_row(row, second[row.name]) for row in a.expressions]
    by_name = {row.name: row for row in rows}
    headline = a.info.get("headline", "jf")
    return Comparison(
        rows=rows,
        clips=_clips(rows),
        overall=difference(rows),
        headline=headline,
        headline_a=a.overall.metrics[headline].mean or 0.0,
        headline_b=b.overall.metrics[headline].mean or 0.0,
        groups=_groups(a.expressions, by_name, groups),
    )


def _groups(
    scored: Sequence[ExpressionScore], rows: dict[str, Row], groupings: Sequence[str]
) -> dict[str, dict[str, Difference]]:
    """Groupings that split the expressions, each in its own way: kinds that are but the types are left out."""
    out: dict[str, dict[str, Difference]] = {}
    for name in dict.fromkeys(groupings):
        groups = grouped(scored, name)
        if len(groups) > 1 and not any(groups.keys() == other.keys() for other in out.values()):
            out[name] = {label: difference([rows[row.name] for row in found]) for label, found in groups.items()}
    return out


def difference(rows: Sequence[Row]) -> Difference:
    """Means over some expressions and their difference. The bootstrap's seed is fixed: same rows, same interval."""
    low, high = bootstrap_by_clip(rows)
    a, b = Mean.of(row.jf_a for row in rows).mean or 0.0, Mean.of(row.jf_b for row in rows).mean or 0.0
    return Difference(a, b, Mean.of(row.change for row in rows), low, high, len({row.clip for row in rows}))


def bootstrap_by_clip(rows: Iterable[Row]) -> tuple[float | None, float | None]:
    """The percentile interval of the mean change when clips are drawn with replacement; None for a single clip."""
    by_clip: dict[str, list[float]] = {}
    for row in rows:
        by_clip.setdefault(row.clip, []).append(row.change)
    if len(by_clip) < 2:
        return None, None
    sums = np.array([sum(changes) for changes in by_clip.values()])
    counts = np.array([len(changes) for changes in by_clip.values()])
    rng = np.random.default_rng(SEED)
    means = []
    for _ in range(0, RESAMPLES, 500):  # a block at a time: with thousands of clips the draws fill memory
        drawn = rng.integers(len(sums), size=(500, len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = (100 - INTERVAL) / 2
    low, high = np.percentile(np.concatenate(means), (tail, 100 - tail))
    return float(low), float(high)


def _row(a: ExpressionScore, b: ExpressionScore) -> Row:
    kind = a.kind or ("" if a.type_id is None else GROUPINGS["type"](a)[1])
    head = (a.clip, a.expression_id, a.text, kind)
    return Row(*head, a.jf, b.jf, a.j, b.j, a.f, b.f, *(s.missing or s.failed for s in (a, b)))


def _clips(rows: Sequence[Row]) -> list[ClipRow]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.clip, []).append(row)
    return [
        ClipRow(clip, len(some), sum(r.jf_a for r in some) / len(some), sum(r.jf_b for r in some) / len(some))
        for clip, some in found.items()
    ]
