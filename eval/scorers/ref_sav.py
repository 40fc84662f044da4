"""Ref-SAV: J, F and accuracy A, long and short expressions weighing the same."""

from __future__ import annotations

from typing import ClassVar

from eval.scorers.base import Case
from eval.scorers.registry import register_scorer
from eval.scorers.two_groups import TwoGroups
from eval.scorers.types import ExpressionScore
from rewards.metrics import pixel_accuracy


@register_scorer("ref_sav")
class RefSAV(TwoGroups):
    """As the tool of Sa2VA, which VideoSEG-O3 has too; objects that overlap are merged by OR, where it adds them."""

    extra: ClassVar[tuple[str, ...]] = ("accuracy",)

    @property
    def note(self) -> str:
        return "overall is the mean of long and short expressions"

    def part(self, row: ExpressionScore) -> str | None:
        return row.kind or None

    def extras(self, case: Case) -> dict[str, float | None]:
        clip = case.sample.clip
        return {"accuracy": float(pixel_accuracy(case.masks.overlap, clip.height * clip.width).mean())}
