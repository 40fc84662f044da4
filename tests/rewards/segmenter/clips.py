"""A clip on disk with two moving squares, and its ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rewards.segmenter import encode_rles
from rollout.types import Clip, Masklets

HEIGHT, WIDTH, FRAMES = 40, 56, 6


def write_clip(root: Path, name: str = "squares", frames: int = FRAMES) -> tuple[Clip, Masklets]:
    """Frames under ``root/name``; the second object is absent from the last frame on, the first from frame 4 on."""
    rng = np.random.default_rng(sum(map(ord, name)))
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    masks = np.zeros((2, frames, HEIGHT, WIDTH), dtype=np.bool_)
    paths = []
    for t in range(frames):
        image = rng.integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        masks[0, t, 5:17, 4 + 2 * t : 16 + 2 * t] = t < 4
        masks[1, t, 20:36, 30 - t : 46 - t] = t < frames - 1
        image[masks[0, t]] = (220, 40, 40)
        image[masks[1, t]] = (50, 80, 230)
        path = folder / f"{t:05d}.png"
        Image.fromarray(image).save(path)
        paths.append(str(path))
    rles = tuple(tuple(rle if mask.any() else None for rle, mask in zip(encode_rles(m), m, strict=True)) for m in masks)
    return Clip(name, tuple(paths), HEIGHT, WIDTH), Masklets(HEIGHT, WIDTH, rles, frames)
