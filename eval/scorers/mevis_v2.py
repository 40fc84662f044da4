"""MeViS v2: J and F with the sentences that have no target and without them, and who is recognised as having none."""

from __future__ import annotations

from typing import ClassVar

from eval.scorers.base import Case, Scorer
from eval.scorers.registry import register_scorer
from rollout.types import Expression


@register_scorer("mevis_v2")
class MeViSv2(Scorer):
    """N-acc: share of the sentences without a target for which no frame has a mask; T-acc: share of the others for
    which some frame has one. In J and F a frame that is empty on both sides counts 1. The server's tool is not public:
    how it weighs them could not be compared, so the table has both rows."""

    extra: ClassVar[tuple[str, ...]] = ("n_acc", "t_acc")

    @property
    def note(self) -> str:
        return "overall holds the sentences without a target, 'with a target' does not"

    def zeros(self, expression: Expression) -> dict[str, float | None]:
        has_target = bool(expression.anno_ids)
        return {"n_acc": None if has_target else 0.0, "t_acc": 0.0 if has_target else None}

    def extras(self, case: Case) -> dict[str, float | None]:
        silent, zeros = not case.masks.pred_visible.any(), self.zeros(case.sample.expression)
        right = {"n_acc": silent, "t_acc": not silent}
        return {name: None if zeros[name] is None else float(right[name]) for name in self.extra}
