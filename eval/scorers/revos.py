"""ReVOS: J, F, accuracy A and robustness R, as the official tool averages them."""

from __future__ import annotations

from typing import ClassVar

from eval.scorers.base import Case
from eval.scorers.registry import register_scorer
from eval.scorers.two_groups import TwoGroups
from eval.scorers.types import TYPE_NAMES, ExpressionScore
from rewards.metrics import pixel_accuracy, robustness

NO_TARGET = 2
PNG_VALUE = 255
"""Of the object in the PNGs that the published programs hand to the tool."""


@register_scorer("revos")
class ReVOS(TwoGroups):
    """Groups referring (type 0) and reasoning (type 1); *overall* is the mean of the two groups.

    No-target expressions (type 2) are a row of their own and not in *overall*. A and R are the definitions: the tool
    computes them on the PNGs' values, and what was published (VISA, Veason-R1) comes from PNGs of value 255, for which
    A counts every hit as wrong and R weighs every pixel outside 255 times. ``--released`` gives those.
    Objects are merged by OR on purpose (adding bytes makes overlapping ground truth count twice).
    """

    extra: ClassVar[tuple[str, ...]] = ("accuracy", "robustness")
    needs_foreground: ClassVar[bool] = True
    apart: ClassVar[int | None] = NO_TARGET

    @property
    def ours(self) -> tuple[str, ...]:
        return () if self.released else ("accuracy", "robustness")

    @property
    def note(self) -> str:
        how = "as published, from PNGs of value 255" if self.released else "ours; published values are another quantity"
        return f"overall is the mean of referring and reasoning; no-target expressions stand apart; A and R {how}"

    def part(self, row: ExpressionScore) -> str | None:
        return TYPE_NAMES[row.type_id] if row.type_id in (0, 1) else None

    def extras(self, case: Case) -> dict[str, float | None]:
        assert case.foreground_area is not None  # needs_foreground
        overlap, pixels = case.masks.overlap, case.sample.clip.height * case.sample.clip.width
        if not self.released:
            accuracy, weight = pixel_accuracy(overlap, pixels), 1
        else:
            union = overlap[:, 1] + overlap[:, 2] - overlap[:, 0]
            accuracy, weight = (pixels - union) / pixels, PNG_VALUE
        return {
            "accuracy": float(accuracy.mean()),
            "robustness": float(robustness(overlap, case.foreground_area, weight).mean()),
        }
