"""What a check sees: the trace, the frames it had seen at each turn, and ground truth reduced to areas.

Shape legend: T frames of the clip.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.traces import BOXES, Trace
from data_construction.traces.shown import SIDE, agreed, seen_before
from rollout.box_protocol import ParsedBoxTurn, parse_box_turn
from rollout.errors import DataError, RecipeError
from rollout.frames import frame_times, whole_seconds
from rollout.protocol import ParsedTurn, parse_turn
from rollout.types import Sample

VOCABULARIES = ("auto", "strict", "off")


@dataclass(frozen=True)
class VerifySettings:
    """Limits of the checks."""

    min_words: int = 8
    """Of the thinking of one turn."""
    max_words: int = 350
    """Of the thinking; with the answer it must fit the 512 tokens of a turn (SPEC 2.6)."""
    interval_precision: float = 0.5
    """Least share of the answered interval's frames that show a target: below it the interval reward is negative."""
    box_iou: float = 0.5
    """Least IoU of every box with its object's (Veason-R1)."""
    duplicate: float = 0.9
    """Two texts with at least this Jaccard similarity of their 5-word shingles are the same; above 1: never."""
    vocabulary: str = "auto"
    """``auto``: no object that the data set lists for other clips only; ``strict``: also no colour that neither an
    expression nor an object of the clip is called by, for data sets whose expressions name all colours; ``off``."""
    side: int | None = None
    """Veason-R1's square frames, in pixels, for traces that do not say."""
    fps: float | None = None
    """Frames a second behind Veason-R1's timestamps, for traces that do not say; None: the clip's own, else 1."""
    skip: tuple[str, ...] = ()
    """Checks to leave out."""

    def __post_init__(self) -> None:
        if self.vocabulary not in VOCABULARIES:
            raise RecipeError(f"vocabulary = {self.vocabulary!r}: expected one of {', '.join(VOCABULARIES)}")
        if not (0 <= self.interval_precision <= 1 and 0 <= self.box_iou <= 1):
            raise RecipeError("interval_precision and box_iou want a number from 0 to 1")
        if not 0 <= self.min_words <= self.max_words or self.duplicate <= 0:
            raise RecipeError("min_words wants 0 or more and at most max_words; duplicate wants a positive number")
        if any(given is not None and given <= 0 for given in (self.side, self.fps)):
            raise RecipeError(f"side = {self.side}, fps = {self.fps}: want positive numbers")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "skip": list(self.skip)}


@dataclass(frozen=True)
class Case:
    """One trace to judge. A check may raise DataError: that is a rejection too."""

    trace: Trace
    sample: Sample
    settings: VerifySettings = field(default_factory=VerifySettings)
    areas: NDArray[np.int64] | None = None
    """(T,) visible pixels of the targets together; None where the split has no masks."""
    names: frozenset[str] = frozenset()
    """Names of the clip's objects, where the data set lists them."""
    all_names: frozenset[str] = frozenset()
    """Names of the whole data set's objects."""
    expressions: tuple[str, ...] = ()
    """Every expression of the clip."""

    @property
    def boxes(self) -> bool:
        """A Veason-R1 trace."""
        return self.trace.method == BOXES

    @property
    def num_frames(self) -> int:
        return self.sample.clip.num_frames

    @property
    def no_target(self) -> bool:
        return not self.sample.expression.anno_ids

    @cached_property
    def turns(self) -> list[ParsedTurn]:
        """The replies as the environment reads them (VideoSEG-O3)."""
        return [parse_turn(reply) for reply in self.trace.replies]

    @cached_property
    def box_turn(self) -> ParsedBoxTurn:
        """The reply as the environment reads it (Veason-R1)."""
        return parse_box_turn(self.trace.replies[0] if self.trace.replies else "")

    @cached_property
    def thinking(self) -> list[str]:
        """The think block of each reply; empty where there is none."""
        return [p.think or "" for p in ([self.box_turn] if self.boxes else self.turns)]

    @cached_property
    def seen(self) -> list[list[int]]:
        """For each reply, the frames shown up to it; empty where the images do not add up (a check says so)."""
        try:
            return seen_before(self.trace, self.num_frames)
        except DataError:
            return []

    @property
    def side(self) -> int:
        """Veason-R1's square, in pixels. Raises RecipeError if trace and settings disagree, as ``timestamps`` does."""
        return int(agreed(self.trace, "side", self.settings.side, SIDE))

    @cached_property
    def timestamps(self) -> tuple[int, ...]:
        """Whole seconds of the frames shown (Veason-R1)."""
        times = frame_times(self.sample.clip, agreed(self.trace, "fps", self.settings.fps, 0.0))
        inside = [min(max(f, 0), len(times) - 1) for f in self.trace.frames]  # A check names what is outside.
        return whole_seconds([times[f] for f in inside])
