"""The disk of the boundary F-measure: how far apart two boundaries may lie."""

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


def growth(radius: int) -> NDArray[np.int64]:
    """(radius + 1,) by how much the half width falls from line d - 1 to line d; 0 at d = 0."""
    return -np.diff(half_widths(radius), prepend=radius)
