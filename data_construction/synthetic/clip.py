"""One synthetic clip from its own random stream, so that it depends on nothing but the seed, its split and number."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_construction.synthetic.expressions import Candidate, choose_expressions
from data_construction.synthetic.facts import measure
from data_construction.synthetic.render import render
from data_construction.synthetic.scene import Scene, draw_scene
from rollout.errors import RecipeError

MAX_TRIES = 400


class Thing(Protocol):
    """An object of a scene."""

    def describe(self) -> dict[str, Any]: ...


class DrawnScene(Protocol):
    """What every world's scene has; ``masks`` (K, T, S, S) are visible pixels."""

    @property
    def size(self) -> int: ...
    @property
    def num_frames(self) -> int: ...
    @property
    def objects(self) -> Sequence[Thing]: ...
    @property
    def masks(self) -> NDArray[np.bool_]: ...


S = TypeVar("S", bound=DrawnScene, covariant=True)


@dataclass(frozen=True)
class SyntheticClip(Generic[S]):
    """A scene, its (T, S, S, 3) uint8 frames, and what is asked about it."""

    name: str
    scene: S
    frames: NDArray[np.uint8]
    expressions: tuple[Candidate, ...]


def make_clip(
    seed: int, split: str, number: int, frames: tuple[int, int], size: int, wanted: Mapping[str, float]
) -> SyntheticClip[Scene]:
    """Clip ``number`` of a split. Scenes that support no wanted expression are drawn again.

    Raises RecipeError if no scene supports one.
    """
    for attempt in range(MAX_TRIES):
        rng = np.random.default_rng([seed, zlib.crc32(split.encode()), number, attempt])
        scene = draw_scene(rng, int(rng.integers(frames[0], frames[1] + 1)), size)
        expressions = choose_expressions(measure(scene), wanted, rng)
        if expressions:
            return SyntheticClip(f"{split}_{number:05d}", scene, render(scene, rng), tuple(expressions))
    raise RecipeError(f"no scene supports any of the kinds {dict(wanted)} in {MAX_TRIES} tries; ask for more kinds")
