"""Boundary F-measure: how much of either boundary lies within a small disk of the other."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BOUND = 0.008
"""Disk radius as a share of the frame's diagonal, the benchmarks' usual value."""


def boundary_radius(height: int, width: int, bound: float = BOUND) -> int:
    """Disk radius in pixels: ceil(bound * diagonal)."""
    return int(np.ceil(bound * np.linalg.norm((height, width))))


def half_widths(radius: int) -> NDArray[np.int64]:
    """(radius + 1,) half width of the disk x^2 + y^2 <= radius^2, d = 0..radius lines off its centre."""
    return np.array([math.isqrt(radius * radius - d * d) for d in range(radius + 1)], dtype=np.int64)


class BoundaryScorer:
    """F of packed frames of one size; holds the disk and two scratch frames."""

    def __init__(self, height: int, width: int, *, columns: bool) -> None:
        """``columns``: the packed lines are image columns (from RLE) instead of rows (from masks)."""
        lines, self.length = (width, height) if columns else (height, width)
        self.radius = boundary_radius(height, width)
        self.half_widths = half_widths(self.radius)
        shape = (lines, (self.length + 63) // 64)
        self._edges = np.empty(shape, np.uint64), np.empty(shape, np.uint64)

    def __call__(self, pred: NDArray[np.uint64], gt: NDArray[np.uint64]) -> float:
        """F in 0..1 of one frame: both boundaries empty 1, one empty 0."""
        from eval.metrics import kernels

        return float(kernels.boundary_f(pred, gt, self.length, self.radius, self.half_widths, *self._edges))
