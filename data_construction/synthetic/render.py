"""Pixels of a scene: grey clutter behind, lightly textured shapes in front, a little noise in every frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data_construction.synthetic.objects import COLORS
from data_construction.synthetic.scene import Scene

TEXTURE_DEPTH = 16.0
"""Half the brightness difference inside a texture, of 255: visible, but colour and shape stay easy to name."""
TEXTURES: dict[str, Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.floating]]] = {
    "plain": lambda a, b: np.zeros_like(a),
    "striped": lambda a, b: np.sin(9 * a),
    "checked": lambda a, b: np.sign(np.sin(6 * a) * np.sin(6 * b)),
    "spotted": lambda a, b: np.where(np.cos(8 * a) * np.cos(8 * b) > 0.4, 1.0, -1.0),
}
"""Brightness in -1..1 at shape coordinates (1 = radius)."""
FRAME_NOISE = 3.0
COLOR_JITTER = 8.0


def render(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(T, S, S, 3) RGB frames."""
    size, total = scene.size, scene.num_frames
    noise = rng.standard_normal((total, size, size, 1), dtype=np.float32)
    frames = background(rng, size)[None] + FRAME_NOISE * noise
    # A pixel belongs to one object at most, so the order of drawing does not matter here.
    for obj, mask in zip(scene.objects, scene.masks, strict=True):
        t, y, x = np.nonzero(mask)
        u, v = (x - obj.path[t, 0]) / obj.radius, (y - obj.path[t, 1]) / obj.radius
        color = np.array(COLORS[obj.color], dtype=np.float32) + rng.normal(0, COLOR_JITTER, 3).astype(np.float32)
        light = TEXTURE_DEPTH * texture(obj.texture, u, v, rng.uniform(0, np.pi)) - 6 * (u * u + v * v)
        frames[t, y, x] = color + light[:, None] + FRAME_NOISE * noise[t, y, x]
    return np.clip(frames, 0, 255).astype(np.uint8)


def texture(name: str, u: NDArray[np.float32], v: NDArray[np.float32], angle: float) -> NDArray[np.float32]:
    """(N,) in -1..1 at shape coordinates u, v (1 = radius), turned by ``angle``; it moves with the shape."""
    a = u * np.float32(np.cos(angle)) + v * np.float32(np.sin(angle))
    b = v * np.float32(np.cos(angle)) - u * np.float32(np.sin(angle))
    return np.asarray(TEXTURES[name](a, b), dtype=np.float32)


def background(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """(S, S, 3): uneven greyish ground at three scales with grey blocks on it."""
    ground = 115 + 20 * rng.standard_normal() + 6 * rng.standard_normal((size, size, 3), dtype=np.float32)
    ground += 18 * _patches(rng, size, 4).mean(2, keepdims=True)
    ground += 12 * _patches(rng, size, 12).mean(2, keepdims=True) + 8 * _patches(rng, size, 24)
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.integers(0, size - size // 12, 2)
        w, h = rng.integers(size // 24, size // 5, 2)
        block = ground[y : y + h, x : x + w]
        block[...] = rng.uniform(50, 190) + 6 * rng.standard_normal(block.shape, dtype=np.float32)
    return ground.astype(np.float32)


def _patches(rng: np.random.Generator, size: int, cells: int) -> NDArray[np.float32]:
    """(S, S, 3): ``cells`` x ``cells`` squares of one normal value each."""
    index = np.arange(size) * cells // size
    values = rng.standard_normal((cells, cells, 3), dtype=np.float32)
    return np.asarray(values[index][:, index])
