"""A scene of like objects in pairs: what is asked for can be told at a glance, and only its mask says which was meant.

Two discs of one colour in the upper half of the frame, two of another in the lower half, one of each pair left and one
right. The discs of a pair are alike in colour and size in every frame; their place, which lasts, is all that differs.

Shape legend: K = 4 discs, T frames, S x S pixels; x right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.synthetic.objects import COLORS
from data_construction.synthetic.render import background

ROWS, SIDES = ("top", "bottom"), ("left", "right")
RADIUS, BREATH, BREATH_RATE = (0.1, 0.13), 0.2, (0.15, 0.4)
"""Of the frame's side; share by which a pair grows and shrinks; radians a frame."""
CENTRE_JITTER, DRIFT, DRIFT_RATE = 0.04, 0.015, 0.15
COLOR_JITTER, FRAME_NOISE = 8.0, 2.0


@dataclass(frozen=True)
class Twin:
    """One disc of a pair. Lengths in pixels."""

    row: str
    side: str
    color: str
    radii: NDArray[np.float64]
    """(T,), those of its twin as well."""
    path: NDArray[np.float64]
    """(T, 2) centres."""

    @property
    def name(self) -> str:
        """What a trace calls it: the same as its twin."""
        return f"{self.row} {self.color} disc"

    def describe(self) -> dict[str, Any]:
        """Plain JSON: how a trace calls it, and what the mask warm-up calls it."""
        return {"name": self.name, "words": [f"{self.row} {self.side}", self.row, self.side], "color": self.color}


@dataclass(frozen=True)
class TwinScene:
    """What a clip shows."""

    size: int
    objects: tuple[Twin, ...]
    """Upper left, upper right, lower left, lower right."""
    masks: NDArray[np.bool_]
    """(K, T, S, S); discs never overlap."""

    @property
    def num_frames(self) -> int:
        return int(self.masks.shape[1])


def draw_twins(rng: np.random.Generator, num_frames: int, size: int) -> TwinScene:
    """Two pairs of two colours."""
    frames = np.arange(num_frames)
    colors = [str(c) for c in rng.permutation(list(COLORS))[: len(ROWS)]]
    twins = []
    for r, (row, color) in enumerate(zip(ROWS, colors, strict=True)):
        breath = 1 + BREATH * np.sin(rng.uniform(*BREATH_RATE) * frames + rng.uniform(0, 2 * np.pi))
        radii = rng.uniform(*RADIUS) * breath
        for c, side in enumerate(SIDES):
            centre = np.array([0.25 + 0.5 * c, 0.25 + 0.5 * r]) + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER, 2)
            swing = DRIFT * np.sin(DRIFT_RATE * frames[:, None] + rng.uniform(0, 2 * np.pi, 2))
            twins.append(Twin(row, side, color, radii * size, (centre + swing) * size))
    return TwinScene(size, tuple(twins), np.stack([_silhouette(t, size) for t in twins]))


def render_twins(scene: TwinScene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(T, S, S, 3) RGB frames; the discs of a pair get one colour."""
    size, total = scene.size, scene.num_frames
    frames = np.repeat(background(rng, size)[None], total, axis=0)
    for row in ROWS:
        pair = [k for k, t in enumerate(scene.objects) if t.row == row]
        color = np.array(COLORS[scene.objects[pair[0]].color]) + rng.normal(0, COLOR_JITTER, 3)
        frames[scene.masks[pair].any(0)] = color.astype(np.float32)
    noise = FRAME_NOISE * rng.standard_normal((total, size, size, 1), dtype=np.float32)
    return np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8)


def _silhouette(twin: Twin, size: int) -> NDArray[np.bool_]:
    """(T, S, S)"""
    at = np.arange(size, dtype=np.float64) + 0.5
    dx = at[None, None, :] - twin.path[:, 0, None, None]
    dy = at[None, :, None] - twin.path[:, 1, None, None]
    return np.asarray(dx * dx + dy * dy <= twin.radii[:, None, None] ** 2)
