"""What a trace may be planned from: where each object is, reduced to numbers a frame.

Shape legend: T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data_construction.cot.runs import area_and_centre
from rollout.frames import evenly_spaced
from rollout.types import Masklets

NEARLY = 0.95
UNNAMED = "target"
"""What an object is called that has no name."""


@dataclass(frozen=True)
class SceneObject:
    """One annotated object of a clip."""

    anno_id: str
    name: str
    """How a trace calls it: ``red circle``, or ``target`` where the data set has no names."""
    areas: NDArray[np.int64]
    """(T,) visible pixels."""
    centres: NDArray[np.float64]
    """(T, 2) mean x, y in pixels; NaN where absent."""
    mark: str = ""
    """What only a close look shows of it, where the data set says so."""


@dataclass(frozen=True)
class InitialFrames:
    """What the first message shows: low-resolution frames over the clip, and sharper ones."""

    temporal: tuple[int, ...]
    spatial: tuple[int, ...]

    @staticmethod
    def evenly(num_frames: int, temporal: int, spatial: int) -> InitialFrames:
        """As the environment shows them in training (SPEC 2.1)."""
        frames = [tuple(evenly_spaced(0, num_frames - 1, n, spare=1)) for n in (temporal, spatial)]
        return InitialFrames(*frames)


def track(anno_id: str, name: str, masklets: Masklets, index: int) -> SceneObject:
    """Measure object ``index`` of some masklets."""
    areas = np.zeros(masklets.num_frames, dtype=np.int64)
    centres = np.full((masklets.num_frames, 2), np.nan)
    for t, rle in enumerate(masklets.rles[index]):
        if rle is not None:
            areas[t], *centres[t] = area_and_centre(rle)
    return SceneObject(anno_id, name, areas, centres)


@dataclass(frozen=True)
class Evidence:
    """What the frames shown so far tell about some objects. Everything a trace says is read off here."""

    objects: tuple[SceneObject, ...]
    seen: tuple[int, ...]
    """Shown frame indices, increasing."""
    num_pixels: int
    """Of a frame."""

    def area(self, t: int) -> int:
        """Visible pixels in shown frame ``t``."""
        return self._totals[t]

    @cached_property
    def _totals(self) -> list[int]:
        totals = np.sum([o.areas for o in self.objects], axis=0)
        return totals.tolist() if self.objects else [0] * (self.seen[-1] + 1)

    @cached_property
    def visible(self) -> list[int]:
        """Shown frames with any of the objects."""
        return [t for t in self.seen if self.area(t) > 0]

    def best(self) -> int:
        """The middle one of the shown frames with (nearly) the most of them, away from where they come and go."""
        most = max(self.area(t) for t in self.visible)
        good = [t for t in self.visible if self.area(t) >= NEARLY * most]
        return good[(len(good) - 1) // 2]

    def clear_run(self, around: int, share: float = 0.5) -> tuple[int, int]:
        """First and last of the neighbouring shown frames where they are at least ``share`` as large as there."""
        return self.run(around, lambda t: self.area(t) >= share * self.area(around))

    def close_run(self, around: int) -> tuple[int, int]:
        """The shown frames of ``clear_run`` in the quarter of its length on either side."""
        start, end = self.clear_run(around)
        near = [t for t in self.seen if start <= t <= end and abs(t - around) <= max(1, (end - start) // 4)]
        return near[0], near[-1]

    def run(self, around: int, holds: Callable[[int], bool]) -> tuple[int, int]:
        """First and last of the shown frames around one for which ``holds`` is true without a break."""
        at = self.seen.index(around)
        first = last = at
        while first > 0 and holds(self.seen[first - 1]):
            first -= 1
        while last + 1 < len(self.seen) and holds(self.seen[last + 1]):
            last += 1
        return self.seen[first], self.seen[last]

    def widest_gap(self) -> tuple[int, int]:
        """The two neighbouring shown frames that are farthest apart."""
        pairs = list(zip(self.seen, self.seen[1:], strict=False))
        return max(pairs, key=lambda p: p[1] - p[0]) if pairs else (self.seen[0], self.seen[0])
