"""What every scorer is: J and F per expression, their means, and the places where a benchmark differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eval.scorers.types import ExpressionScore, GroupScores
from rewards.metrics import ClipScores
from rollout.types import Sample


@dataclass(frozen=True)
class Case:
    """One predicted expression, as a scorer's own metrics see it."""

    sample: Sample
    masks: ClipScores
    """Per-frame J, F and overlaps of the prediction; values 0..1."""
    foreground_area: NDArray[np.int64] | None = None
    """(T,) pixels of the data set's foreground masks; only where ``needs_foreground``."""


class Scorer:
    """J and F alone: mean over frames, then over expressions. Others override what differs."""

    extra: ClassVar[tuple[str, ...]] = ()
    """Names of the metrics that this scorer adds, in the order of its table's columns."""
    needs_foreground: ClassVar[bool] = False
    decimals: ClassVar[int | None] = None
    """The official tool rounds each expression's percentages so; None: it keeps every digit."""
    apart: ClassVar[int | None] = None
    """The type that *overall* leaves out: its expressions are a row of their own in every grouping."""
    note: ClassVar[str] = ""
    """What a reader of the table must know."""

    def extras(self, case: Case) -> dict[str, float]:
        """The added metrics of one expression, 0..1, by name."""
        return {}

    def group(self, name: str, rows: Sequence[ExpressionScore]) -> GroupScores:
        """One row of the table."""
        return GroupScores.of(name, list(rows))

    def overall(self, rows: Sequence[ExpressionScore]) -> GroupScores:
        """The headline row: the mean over all expressions."""
        return self.group("overall", rows)
