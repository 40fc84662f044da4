"""Benchmarks whose *overall* is the mean of two groups' means, not of all expressions (ReVOS, Ref-SAV)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from eval.scorers.base import Scorer
from eval.scorers.types import ExpressionScore, GroupScores, Mean


class TwoGroups(Scorer):
    """Percentages are rounded to two decimals an expression, as the official tools do (``--exact`` keeps them all), and
    a group's J&F is the mean of its J and F."""

    decimals: ClassVar[int | None] = 2

    def part(self, row: ExpressionScore) -> str | None:
        """The group that a row belongs to; None for those that *overall* leaves out."""
        raise NotImplementedError

    def group(self, name: str, rows: Sequence[ExpressionScore]) -> GroupScores:
        return _with_jf(super().group(name, rows))

    def overall(self, rows: Sequence[ExpressionScore]) -> GroupScores:
        """Mean of the groups; of the one that there is, where a split lacks the other."""
        parts: dict[str, list[ExpressionScore]] = {}
        for row in rows:
            if (part := self.part(row)) is not None:
                parts.setdefault(part, []).append(row)
        if not parts:
            return super().overall(rows)
        groups = [self.group(*part) for part in parts.items()]
        names = list(dict.fromkeys(m for g in groups for m in g.metrics))
        baselines = list(dict.fromkeys(b for g in groups for b in g.baselines))
        nothing = Mean(None, None, 0)
        return _with_jf(
            GroupScores(
                "overall",
                sum(g.count for g in groups),
                {m: _mean_of_means([g.metrics.get(m, nothing) for g in groups]) for m in names},
                {b: _mean_of_means([g.baselines.get(b, nothing) for g in groups]) for b in baselines},
                _mean_of_means([g.margin for g in groups]),
            )
        )


def _with_jf(group: GroupScores) -> GroupScores:
    """The official table's J&F is the mean of its (rounded) J and F, not the mean of the rows' J&F."""
    j, f, jf = (group.metrics[m] for m in ("j", "f", "jf"))
    if j.mean is None or f.mean is None:
        return group
    return replace(group, metrics={**group.metrics, "jf": Mean((j.mean + f.mean) / 2, jf.se, jf.n)})


def _mean_of_means(means: list[Mean]) -> Mean:
    """Each group weighs the same; the groups' errors are independent."""
    known = [m for m in means if m.mean is not None]
    if not known:
        return Mean(None, None, 0)
    errors = [m.se for m in known if m.se is not None]
    se = sum(e * e for e in errors) ** 0.5 / len(known) if len(errors) == len(known) else None
    return Mean(sum(m.mean for m in known if m.mean is not None) / len(known), se, sum(m.n for m in known))
