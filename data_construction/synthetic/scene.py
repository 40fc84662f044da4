"""Draw a scene: which shapes, when they are there, how they move, and what of them is visible.

Shape legend: K objects, T frames, S x S pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_construction.synthetic.objects import COLORS, DIRECTIONS, SHAPES, STILL, TEXTURES, ShapeObject
from rollout.errors import DataError

RADIUS = (0.075, 0.19)
"""Of the frame's side."""
MOVING_SHARE, REPEATED_COLOR_SHARE, SUCCESSION_SHARE, EDGE_SHARE = 0.75, 0.2, 0.4, 0.5
TRAVEL = (0.3, 0.7)
MAX_STEP = 0.034
"""Largest speed, in sides a frame, so that small shapes overlap themselves from frame to frame."""
MIN_VISIBLE_PIXELS = 12 / 96**2
"""Of the frame's area. A smaller remnant counts as not visible and gets no mask."""
MIN_OPEN_SHARE = 0.6
"""Each object shows at least this share of itself in the median frame of its life."""
MAX_TRIES = 500


@dataclass(frozen=True)
class Scene:
    """What a clip shows. ``order`` lists objects from back to front."""

    size: int
    objects: tuple[ShapeObject, ...]
    order: tuple[int, ...]
    masks: NDArray[np.bool_]
    """(K, T, S, S) visible pixels."""
    whole_areas: NDArray[np.int64]
    """(K, T) pixels inside the frame if nothing were in front."""

    @property
    def num_frames(self) -> int:
        return int(self.masks.shape[1])

    @property
    def areas(self) -> NDArray[np.int64]:
        """(K, T) visible pixels."""
        return np.asarray(self.masks.sum((2, 3)))


def draw_scene(rng: np.random.Generator, num_frames: int, size: int) -> Scene:
    """A scene of 3 or 4 shapes in which each is seen long and openly enough to be recognised."""
    for _ in range(MAX_TRIES):
        objects = _draw_objects(rng, num_frames, size)
        scene = compose(objects, size)
        open_share = [
            np.median(a[w > 0] / w[w > 0]) if (w > 0).any() else 0.0
            for a, w in zip(scene.areas, scene.whole_areas, strict=True)
        ]
        seen = (scene.areas > 0).sum(1)
        if min(open_share) >= MIN_OPEN_SHARE and seen.min() >= max(4, num_frames // 5):
            return scene
    raise DataError(f"no sound scene of {num_frames} frames at {size} pixels in {MAX_TRIES} tries; use longer clips")


def compose(objects: tuple[ShapeObject, ...], size: int) -> Scene:
    """Stack the shapes, small ones in front, and drop remnants too small to see."""
    order = tuple(int(k) for k in np.argsort([-o.radius for o in objects], kind="stable"))
    whole = np.stack([o.silhouette(size) for o in objects])
    masks = np.empty_like(whole)
    covered = np.zeros_like(whole[0])
    for k in reversed(order):
        masks[k] = whole[k] & ~covered
        covered |= whole[k]
    masks &= masks.sum((2, 3), keepdims=True) >= MIN_VISIBLE_PIXELS * size**2
    return Scene(size, objects, order, masks, whole.sum((2, 3)))


def _draw_objects(rng: np.random.Generator, num_frames: int, size: int) -> tuple[ShapeObject, ...]:
    count = int(rng.integers(3, 5))
    looks = _draw_looks(rng, count)
    spans = _draw_spans(rng, count, num_frames)
    return tuple(_draw_object(rng, look, span, num_frames, size) for look, span in zip(looks, spans, strict=True))


def _draw_looks(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Distinct (color, shape) pairs; in some scenes two shapes share a colour."""
    colors = [str(c) for c in rng.permutation(list(COLORS))[:count]]
    if rng.random() < REPEATED_COLOR_SHARE:
        colors[1] = colors[0]
    shapes = [str(s) for s in rng.choice(SHAPES, count)]
    while colors[0] == colors[1] and shapes[0] == shapes[1]:
        shapes[1] = str(rng.choice(SHAPES))
    return list(zip(colors, shapes, strict=True))


def _draw_spans(rng: np.random.Generator, count: int, num_frames: int) -> list[tuple[int, int]]:
    """First and last frame of each: all the time, late, early, or a stretch; sometimes one follows another."""
    last = num_frames - 1
    least = max(5, num_frames // 4)
    spans = []
    for _ in range(count):
        style = rng.random()
        enter = int(rng.integers(2, last - least + 1)) if style < 0.3 or style > 0.85 else 0
        leave = int(rng.integers(enter + least, last)) if style > 0.6 and enter + least < last else last
        spans.append((enter, leave))
    if rng.random() < SUCCESSION_SHARE:
        leave = int(rng.integers(least - 1, last - least - 2 + 1)) if last - least - 2 >= least else least - 1
        enter = min(leave + int(rng.integers(2, 5)), last - least + 1)
        if enter > leave + 1:
            spans[0], spans[1] = (0, leave), (enter, last)
            rng.shuffle(spans)
    return spans


def _draw_object(
    rng: np.random.Generator, look: tuple[str, str], span: tuple[int, int], num_frames: int, size: int
) -> ShapeObject:
    radius = float(rng.uniform(*RADIUS) * size)
    moving = rng.random() < MOVING_SHARE
    direction = str(rng.choice(list(DIRECTIONS))) if moving else STILL
    steps = span[1] - span[0]
    travel = min(float(rng.uniform(*TRAVEL)) * size, MAX_STEP * size * steps) if moving else 0.0
    change = float(rng.choice([1.0, 1.0, 0.4, 2.5]))
    # Per-step speeds: the second half of the life is `change` times as fast as the first.
    weight = np.where(np.arange(steps) < steps / 2, 1.0, change)
    weight *= travel / weight.sum()
    along = np.zeros(num_frames, dtype=np.float64)
    along[span[0] + 1 : span[1] + 1] = np.cumsum(weight)
    along[span[1] + 1 :] = travel
    x, y = DIRECTIONS.get(direction, (0.0, 0.0))
    origin = _draw_origin(rng, (x, y), travel, radius, size, span[0] > 0, span[1] < num_frames - 1)
    path = (origin + along[:, None] * np.array([x, y])).astype(np.float32)
    speeds = (float(weight[0]), float(weight[-1]))
    return ShapeObject(*look, str(rng.choice(TEXTURES)), radius, direction, speeds, span[0], span[1], path)


def _draw_origin(
    rng: np.random.Generator,
    unit: tuple[float, float],
    travel: float,
    radius: float,
    size: int,
    enters: bool,
    leaves: bool,
) -> NDArray[np.float64]:
    """(2,) start of the path; those that enter or leave while moving often do so across the frame's edge."""
    origin = rng.uniform(0.8 * radius, size - 0.8 * radius, 2)
    at_edge, out = rng.random() < EDGE_SHARE, 0.6 * radius
    for axis, step in enumerate(unit):
        if step == 0:
            continue
        lo, hi = 0.5 * radius, size - 0.5 * radius
        lo, hi = (lo, hi - travel) if step > 0 else (lo + travel, hi)
        origin[axis] = rng.uniform(lo, hi) if hi > lo else (lo + hi) / 2
        if at_edge and enters:
            origin[axis] = -out if step > 0 else size + out
        elif at_edge and leaves:
            origin[axis] = size + out - travel if step > 0 else travel - out
    return origin
