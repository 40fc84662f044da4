"""What every scorer is: J and F per expression, their means, and the places where a benchmark differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eval.scorers.types import ExpressionScore, GroupScores
from rewards.metrics import ClipScores
from rollout.types import RLE, Expression, Sample

Labels = Callable[[int], NDArray[np.uint8] | None]
"""Frame -> (H, W) annotation ids as the mask file holds them; None where masks lie in no such files."""
Track = Sequence[RLE | None]
"""One object in every frame of the clip."""


@dataclass(frozen=True)
class Case:
    """One predicted expression, as a scorer's own metrics see it."""

    sample: Sample
    masks: ClipScores
    """J, F and overlaps of the prediction in the frames that count; values 0..1."""
    foreground_area: NDArray[np.int64] | None = None
    """(T,) pixels of the data set's foreground masks; only where ``needs_foreground``."""
    objects: Sequence[Track] = ()
    """The prediction, one track an object."""
    annotated: tuple[int, ...] | None = None
    """Frames whose masks people drew; None: all."""


class Scorer:
    """J and F alone: mean over frames, then over expressions. Others override what differs."""

    extra: ClassVar[tuple[str, ...]] = ()
    """Names of the metrics that this scorer adds, in the order of its table's columns."""
    needs_foreground: ClassVar[bool] = False
    decimals: ClassVar[int | None] = None
    """The official tool rounds each expression's percentages so; None: it keeps every digit."""
    apart: ClassVar[int | None] = None
    """The type that *overall* leaves out: its expressions are a row of their own in every grouping."""
    takes_whole_clips: ClassVar[bool] = False
    """Whether ``together`` is to be asked."""
    headline: ClassVar[str] = "jf"
    """The benchmark's own first metric."""
    released: bool = False
    """Score as the released tool does where ours differs from it on purpose."""

    @property
    def ours(self) -> tuple[str, ...]:
        """Metrics that the official tool has not, or defines otherwise: shown as ours, beside no published value."""
        return ()

    @property
    def note(self) -> str:
        """What a reader of the table must know."""
        return ""

    def extras(self, case: Case) -> dict[str, float | None]:
        """The added metrics of one expression, 0..1, by name; None where an expression has none."""
        return {}

    def zeros(self, expression: Expression) -> dict[str, float | None]:
        """The added metrics of an expression without a prediction: 0, or None as in ``extras``."""
        return dict.fromkeys(self.extra, 0.0)

    def tracks(self, case: Case) -> list[list[float]] | None:
        """IoU of each predicted track with each object, for scores that are made of all expressions at once."""
        return None

    def together(
        self, samples: Sequence[Sample], predictions: Mapping[str, Track], labels: Labels
    ) -> dict[str, dict[str, float | None]]:
        """Expression id -> metrics, 0..1, that take all expressions of a clip at once; they go before ``extras``.

        Raises DataError for label images that cannot be read.
        """
        return {}

    def group(self, name: str, rows: Sequence[ExpressionScore]) -> GroupScores:
        """One row of the table."""
        return GroupScores.of(name, list(rows))

    def overall(self, rows: Sequence[ExpressionScore]) -> GroupScores:
        """The headline row: the mean over all expressions."""
        return self.group("overall", rows)
