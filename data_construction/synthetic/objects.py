"""The things in a synthetic clip: coloured, textured shapes that move. Positions in pixels, x right, y down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 230),
    "yellow": (230, 210, 50),
    "purple": (205, 55, 200),
    "cyan": (60, 205, 215),
}
SHAPES = ("circle", "square", "triangle")
TEXTURES = ("plain", "striped", "checked", "spotted")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
STILL = "still"

SQUARE_HALF = 0.88
TRIANGLE_BASE, TRIANGLE_SLOPE = 0.75, 0.62
"""Triangle: from dy = -r (tip) to 0.75 r (base), half width 0.62 (dy + r)."""


@dataclass(frozen=True)
class ShapeObject:
    """One shape. It is drawn in frames ``enter``..``leave`` (both included); ``path`` (T, 2) are its centres."""

    color: str
    shape: str
    texture: str
    radius: float
    direction: str
    """``left``, ``right``, ``up``, ``down`` or ``still``; it never turns, but may change speed."""
    speeds: tuple[float, float]
    """Pixels a frame before and after the middle of its life."""
    enter: int
    leave: int
    path: NDArray[np.float32]

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def nominal_area(self) -> float:
        """Pixels of the whole shape, nothing hidden."""
        height = 1 + TRIANGLE_BASE
        factor = {"circle": np.pi, "square": (2 * SQUARE_HALF) ** 2, "triangle": TRIANGLE_SLOPE * height**2}
        return float(factor[self.shape] * self.radius**2)

    def silhouette(self, size: int) -> NDArray[np.bool_]:
        """(T, size, size): the whole shape in every frame, whatever is in front of it."""
        r = self.radius
        x = np.arange(size, dtype=np.float32)[None, :] - self.path[:, :1]
        y = np.arange(size, dtype=np.float32)[None, :] - self.path[:, 1:]
        dx, dy = x[:, None, :], y[:, :, None]
        if self.shape == "circle":
            inside = dx * dx + dy * dy <= r * r
        elif self.shape == "square":
            inside = (np.abs(dx) <= SQUARE_HALF * r) & (np.abs(dy) <= SQUARE_HALF * r)
        else:
            inside = (dy <= TRIANGLE_BASE * r) & (np.abs(dx) <= (dy + r) * TRIANGLE_SLOPE)
        frames = np.arange(len(self.path))
        return inside & ((frames >= self.enter) & (frames <= self.leave))[:, None, None]

    def describe(self) -> dict[str, Any]:
        """Plain JSON of what defines it (the path follows from the rest and is left out)."""
        return {
            "color": self.color,
            "shape": self.shape,
            "texture": self.texture,
            "radius": round(self.radius, 3),
            "direction": self.direction,
            "speeds": [round(s, 3) for s in self.speeds],
            "enter": self.enter,
            "leave": self.leave,
        }
