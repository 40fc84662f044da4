"""Synthetic worlds by name: how a clip is drawn, and what can be asked about it."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from data_construction.synthetic.badges import BadgeScene, draw_badges
from data_construction.synthetic.clip import DrawnScene, SyntheticClip, make_clip
from data_construction.synthetic.expressions import DEFAULT_KINDS, KINDS, REFERRING, Candidate
from data_construction.synthetic.marks import MARKS, render_badges
from data_construction.synthetic.twins import TwinScene, draw_twins, render_twins
from rollout.errors import RecipeError

DrawClip = Callable[[int, str, int, tuple[int, int], int, Mapping[str, float]], SyntheticClip[DrawnScene]]
"""(seed, split, number, fewest and most frames, side, expressions wanted by kind) -> the clip."""


@dataclass(frozen=True)
class World:
    """One kind of clip."""

    name: str
    draw: DrawClip
    kinds: tuple[str, ...]
    """Expressions that there are."""
    wanted: Mapping[str, float]
    """Expressions wanted of each kind a clip, unless said otherwise."""
    frames: tuple[int, int]
    """Fewest and most frames of a clip, unless said otherwise."""
    size: int
    """Side in pixels, unless said otherwise."""
    least_frames: int
    size_unit: int
    """Sides are multiples of it."""
    twins: bool = False
    """Objects come in pairs that a trace calls alike."""


def _badges(
    seed: int, split: str, number: int, frames: tuple[int, int], size: int, wanted: Mapping[str, float]
) -> SyntheticClip[BadgeScene]:
    """One expression on each disc (or on some, by a number below 4)."""
    rng = np.random.default_rng([seed, zlib.crc32(f"badges/{split}".encode()), number])
    scene = draw_badges(rng, int(rng.integers(frames[0], frames[1] + 1)), size, tuple(MARKS))
    asked = sorted(rng.permutation(len(scene.objects))[: max(1, round(wanted["mark"]))].tolist())
    expressions = tuple(
        Candidate("mark", f"the {scene.objects[k].mark} disc", (k,), REFERRING, scene.objects[k].legible) for k in asked
    )
    return SyntheticClip(f"{split}_{number:05d}", scene, render_badges(scene, rng), expressions)


def _twins(
    seed: int, split: str, number: int, frames: tuple[int, int], size: int, wanted: Mapping[str, float]
) -> SyntheticClip[TwinScene]:
    """One expression on each disc (or on some, by a number below 4), which says all but how the disc looks."""
    rng = np.random.default_rng([seed, zlib.crc32(f"twins/{split}".encode()), number])
    scene = draw_twins(rng, int(rng.integers(frames[0], frames[1] + 1)), size)
    asked = sorted(rng.permutation(len(scene.objects))[: max(1, round(wanted["twin"]))].tolist())
    expressions = tuple(
        Candidate("twin", f"the {scene.objects[k].side} one of the {scene.objects[k].name}s", (k,), REFERRING)
        for k in asked
    )
    return SyntheticClip(f"{split}_{number:05d}", scene, render_twins(scene, rng), expressions)


WORLDS: dict[str, World] = {
    w.name: w
    for w in (
        World("shapes", make_clip, tuple(KINDS), DEFAULT_KINDS, (16, 24), 96, 12, 1),
        World("badges", _badges, ("mark",), {"mark": 4.0}, (64, 64), 256, 48, 64),
        World("twins", _twins, ("twin",), {"twin": 4.0}, (32, 32), 128, 12, 1, twins=True),
    )
}
"""``shapes``: coloured shapes that every frame shows. ``badges``: like discs whose marks want a closer look. ``twins``:
pairs of like discs, of which only a mask says which one was meant."""


def get_world(name: str) -> World:
    """Raises RecipeError naming those there are."""
    if name not in WORLDS:
        near = difflib.get_close_matches(name, WORLDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"world {name!r}: there is none of this name; {hint}known: {', '.join(WORLDS)}")
    return WORLDS[name]
