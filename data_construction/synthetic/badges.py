"""A scene in which looking closely pays: like discs whose marks can be read in a short stretch, and at full size only.

Four discs of one colour, one in each quarter of the frame, drift a little. In the *window*, a few frames of the clip,
they face the camera and each shows its own mark; over `RAMP` frames before and after it they turn, from a blue back to
their face, and grow: that is what low resolution shows of it. Outside the window nothing tells them apart but their
place, which lasts.

Shape legend: K = 4 discs, T frames, S x S pixels; x right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLACES: tuple[tuple[str, str], ...] = (("top", "left"), ("top", "right"), ("bottom", "left"), ("bottom", "right"))
"""Row and column of each disc, as words."""
WINDOW = (5, 9)
"""Fewest and most frames in which marks are shown."""
RAMP = 8
"""Frames over which a disc grows before the window and shrinks after it."""
FAR, NEAR = 0.094, 0.14
"""Radius away from the window and in it, of the frame's side."""
COLOR = (112, 143)
"""Least and most of each channel of a face."""
BACK = (40, 60, 160)
"""Red, green and blue of every disc's back. Size alone is lost in the clutter to a small vision tower."""
RADIUS_JITTER, CENTRE_JITTER, DRIFT, DRIFT_RATE = 0.008, 0.03, (0.012, 0.03), 0.15


@dataclass(frozen=True)
class Disc:
    """One disc. Lengths in pixels."""

    place: tuple[str, str]
    mark: str
    radii: NDArray[np.float64]
    """(T,)"""
    path: NDArray[np.float64]
    """(T, 2) centres."""
    flip: int
    """1 or -1: which of the mark's stripes are the bright ones."""
    legible: tuple[int, ...]
    """Frames in which its mark is shown."""

    @property
    def name(self) -> str:
        return " ".join(self.place)

    def describe(self) -> dict[str, Any]:
        """Plain JSON: how a trace calls it, what the mask warm-up calls it, and what its mark is where."""
        words = [self.name, *self.place]
        return {"name": self.name, "words": words, "mark": self.mark, "legible": list(self.legible)}


@dataclass(frozen=True)
class BadgeScene:
    """What a clip shows; ``colors`` (T, 3) are those of all discs."""

    size: int
    objects: tuple[Disc, ...]
    masks: NDArray[np.bool_]
    """(K, T, S, S); discs never overlap."""
    colors: NDArray[np.float32]

    @property
    def num_frames(self) -> int:
        return int(self.masks.shape[1])


def draw_badges(rng: np.random.Generator, num_frames: int, size: int, marks: tuple[str, ...]) -> BadgeScene:
    """Four discs, each with another of ``marks``; the window lies anywhere that leaves room for it."""
    length = int(rng.integers(WINDOW[0], WINDOW[1] + 1))
    first = int(rng.integers(2, num_frames - length - 1))
    frames = np.arange(num_frames)
    away = np.maximum(0, np.maximum(first - frames, frames - (first + length - 1)))
    facing = np.clip(1 - away / RAMP, 0, 1)
    legible = tuple(range(first, first + length))
    chosen = rng.permutation(len(marks))[: len(PLACES)]
    discs = []
    for place, mark in zip(PLACES, chosen, strict=True):
        quarter = np.array([0.25 + 0.5 * (place[1] == "right"), 0.25 + 0.5 * (place[0] == "bottom")])
        centre = quarter + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER, 2)
        swing = rng.uniform(*DRIFT, 2) * np.sin(DRIFT_RATE * frames[:, None] + rng.uniform(0, 2 * np.pi, 2))
        radii = FAR + rng.uniform(-RADIUS_JITTER, RADIUS_JITTER) + (NEAR - FAR) * facing
        flip = int(rng.choice([-1, 1]))
        discs.append(Disc(place, marks[int(mark)], radii * size, (centre + swing) * size, flip, legible))
    back, face = np.array(BACK), rng.uniform(*COLOR, 3)
    colors = (back + facing[:, None] * (face - back)).astype(np.float32)
    return BadgeScene(size, tuple(discs), np.stack([_silhouette(d, size) for d in discs]), colors)


def _silhouette(disc: Disc, size: int) -> NDArray[np.bool_]:
    """(T, S, S)"""
    at = np.arange(size, dtype=np.float64) + 0.5
    dx = at[None, None, :] - disc.path[:, 0, None, None]
    dy = at[None, :, None] - disc.path[:, 1, None, None]
    return np.asarray(dx * dx + dy * dy <= disc.radii[:, None, None] ** 2)
