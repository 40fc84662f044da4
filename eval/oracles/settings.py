"""What the oracles are measured with. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.errors import RecipeError
from rollout.frames import MIN_UNITS

LEAST_GAP = 20.0
"""J&F between the right keyframe and the next best answer, from which a world is said to pay for exploring."""


@dataclass(frozen=True)
class OracleSettings:
    """The dialogue's first message and budgets (units of 28 x 28 pixels), and how hard the reader is trained."""

    low_res: int = 6
    spatial: int = 21
    keyframe: int = 84
    low_res_frames: int = 10
    spatial_frames: int = 5
    train_clips: int = 150
    """Clips whose legible frames the readers learn from."""
    steps: int = 400
    """Of each reader, at most: one that reads ends sooner."""
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("low_res", "spatial", "keyframe"):
            if getattr(self, name) < MIN_UNITS:
                raise RecipeError(f"{name} = {getattr(self, name)}: the least is {MIN_UNITS} units of 28 x 28 pixels")
        for name in ("low_res_frames", "train_clips", "steps", "batch"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} = {getattr(self, name)}: must be at least 1")

    @property
    def budgets(self) -> dict[str, int]:
        """By what is shown at them."""
        return {"low_res": self.low_res, "spatial": self.spatial, "keyframe": self.keyframe}
