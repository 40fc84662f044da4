"""What expressions are judged by: everything measured on the visible masks of a scene.

Shape legend: K objects, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_construction.synthetic.objects import ShapeObject
from data_construction.synthetic.scene import MIN_VISIBLE_PIXELS, Scene


@dataclass(frozen=True)
class SceneFacts:
    """Measured once a scene."""

    size: int
    objects: tuple[ShapeObject, ...]
    areas: NDArray[np.int64]
    """(K, T) visible pixels."""
    centres: NDArray[np.float64]
    """(K, T, 2) mean x, y of the visible pixels; NaN where absent."""
    unbroken: bool
    """Every object is visible from its first to its last frame without a gap, and nothing else delays or
    shortens its visibility by hiding it."""

    @property
    def num_frames(self) -> int:
        return int(self.areas.shape[1])

    @property
    def first(self) -> NDArray[np.int64]:
        """(K,) first visible frame."""
        return np.asarray((self.areas > 0).argmax(1))

    @property
    def last(self) -> NDArray[np.int64]:
        """(K,) last visible frame."""
        return np.asarray(self.num_frames - 1 - (self.areas[:, ::-1] > 0).argmax(1))

    @property
    def peak(self) -> NDArray[np.int64]:
        """(K,) most pixels ever visible."""
        return np.asarray(self.areas.max(1))

    def moved(self, k: int) -> float:
        """Pixels between the first and the last visible position of object ``k``."""
        path = self.objects[k].path
        return float(np.linalg.norm(path[self.last[k]] - path[self.first[k]]))


def measure(scene: Scene) -> SceneFacts:
    """The facts of a scene."""
    areas = scene.areas
    total = np.maximum(areas, 1)
    steps = np.arange(scene.size, dtype=np.float64)
    x = (scene.masks.sum(2) * steps).sum(-1) / total
    y = (scene.masks.sum(3) * steps).sum(-1) / total
    centres = np.where((areas > 0)[..., None], np.stack([x, y], -1), np.nan)
    # An object that would be visible with nothing in front of it must be visible, in one stretch.
    hidden = ((areas == 0) & (scene.whole_areas >= MIN_VISIBLE_PIXELS * scene.size**2)).any()
    edges = np.diff((areas > 0).astype(np.int8), axis=1, prepend=0, append=0)
    unbroken = not hidden and bool((np.abs(edges).sum(1) == 2).all())
    return SceneFacts(scene.size, scene.objects, areas, centres, unbroken)
