"""ReVOS: J, F, accuracy A and robustness R, as the official tool averages them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from eval.scorers.base import Case, Scorer
from eval.scorers.registry import register_scorer
from eval.scorers.types import ExpressionScore, GroupScores, Mean
from rewards.metrics import pixel_accuracy, robustness

GROUPS = {"referring": 0, "reasoning": 1}
NO_TARGET = 2


@register_scorer("revos")
class ReVOS(Scorer):
    """Groups referring (type 0) and reasoning (type 1); *overall* is the mean of the two groups.

    Percentages are rounded to two decimals an expression, as the official tool does (``--exact`` keeps them all), and a
    group's J&F is the mean of its J and F. No-target expressions (type 2) are a row of their own and not in *overall*.
    Two things differ from that tool on purpose: objects are merged by OR (adding bytes makes overlapping ground truth
    count twice), and a missing prediction scores 0 and is listed instead of being dropped from the means.
    """

    extra: ClassVar[tuple[str, ...]] = ("accuracy", "robustness")
    needs_foreground: ClassVar[bool] = True
    decimals: ClassVar[int | None] = 2
    apart: ClassVar[int | None] = NO_TARGET
    note: ClassVar[str] = "overall is the mean of referring and reasoning; no-target expressions stand apart"

    def extras(self, case: Case) -> dict[str, float]:
        assert case.foreground_area is not None  # needs_foreground
        size = (case.sample.clip.height, case.sample.clip.width)
        return {
            "accuracy": float(pixel_accuracy(case.masks.overlap, size[0] * size[1]).mean()),
            "robustness": float(robustness(case.masks.overlap, case.foreground_area).mean()),
        }

    def group(self, name: str, rows: Sequence[ExpressionScore]) -> GroupScores:
        return _with_jf(super().group(name, rows))

    def overall(self, rows: Sequence[ExpressionScore]) -> GroupScores:
        """Mean of the two groups; of the one that there is, where a split lacks the other."""
        typed = {t: [row for row in rows if row.type_id == t] for t in GROUPS.values()}
        groups = [self.group(str(t), found) for t, found in typed.items() if found]
        if not groups:
            return super().overall(rows)

        def both(means: list[Mean]) -> Mean:
            return _mean_of_means(means)

        first = groups[0]
        return _with_jf(
            GroupScores(
                "overall",
                sum(g.count for g in groups),
                {m: both([g.metrics[m] for g in groups]) for m in first.metrics},
                {b: both([g.baselines[b] for g in groups]) for b in first.baselines},
                both([g.margin for g in groups]),
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
