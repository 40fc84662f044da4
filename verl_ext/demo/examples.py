"""Clips to try: drawn, as the quickstart's are, from a seed that it does not use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_construction.synthetic.worlds import get_world
from verl_ext.demo.film import write_pictures

SEED, WORLD, FRAMES, FPS = 2027, "shapes", 16, 8
MOST_SENTENCES = 3


@dataclass(frozen=True)
class Example:
    clip: Path
    sentences: tuple[str, ...]


def draw_examples(folder: Path, count: int = 3) -> list[Example]:
    """As mp4 in ``folder``."""
    world, found = get_world(WORLD), []
    for number in range(count):
        clip = world.draw(SEED, "test", number, (FRAMES, FRAMES), world.size, {"attribute": 3.0, "no_target": 0.34})
        path = folder / f"example_{number + 1}.mp4"
        write_pictures(path, clip.frames, np.arange(len(clip.frames)) / FPS)
        found.append(Example(path, tuple(e.text for e in clip.expressions[:MOST_SENTENCES])))
    return found
