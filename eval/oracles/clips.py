"""The clips of a world whose marks want a closer look, and their frames as a policy would be shown them.

Shape legend: K objects of a clip, h x w pixels at a budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.readers import open_dataset
from data_construction.synthetic import read_synthetic_objects
from rollout.errors import DataError
from rollout.frames import PixelBudget, load_frame_resized
from rollout.types import Clip, Masklets, Sample

PATCH, MERGE, MIDDLE = 16, 2, 0.5
"""Qwen3-VL's image processor: cells of 32 pixels, values about one half."""


@dataclass(frozen=True)
class MarkedClip:
    """One clip: its objects in order of annotation, their marks, and what is asked."""

    clip: Clip
    anno_ids: tuple[str, ...]
    marks: tuple[str, ...]
    masklets: Masklets
    legible: tuple[int, ...]
    samples: tuple[Sample, ...] = field(repr=False)

    @property
    def middle(self) -> int:
        """The frame in the middle of the legible ones."""
        return self.legible[len(self.legible) // 2]

    def target(self, sample: Sample) -> int:
        """Which of the K objects an expression asks for."""
        return self.anno_ids.index(sample.expression.anno_ids[0])


def marked_clips(root: Path, split: str, limit: int | None = None) -> list[MarkedClip]:
    """The first ``limit`` clips of a split. Raises DataError for data whose objects have no marks."""
    described: dict[str, dict[str, dict[str, Any]]] = {}
    for anno_id, d in read_synthetic_objects(root).items():
        described.setdefault(d["video"], {})[anno_id] = d
    dataset = open_dataset("revos", root, split)
    found = []
    for name in list(dataset.clips())[:limit]:
        objects = described.get(name, {})
        if not objects or not all("mark" in d and d.get("legible") for d in objects.values()):
            raise DataError(
                f"{root}: clip {name} has no marks that want a closer look; oracles are for such worlds "
                "(videoseg data synthetic --world badges)"
            )
        masklets = dataset.masklets(name, tuple(objects))
        assert masklets is not None
        samples = tuple(dataset.get(name, e.id) for e in dataset.expressions(name))
        legible = tuple(int(t) for t in next(iter(objects.values()))["legible"])
        marks = tuple(str(d["mark"]) for d in objects.values())
        found.append(MarkedClip(dataset.clip(name), tuple(objects), marks, masklets, legible, samples))
    return found


class Shown:
    """Frames as Qwen3-VL's processor emits them at a budget: resized by us, and by it cut into patches and scaled."""

    def __init__(self, units: int) -> None:
        from transformers import Qwen2VLImageProcessor

        self.units = units
        limits = {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": 16384 * 28 * 28}
        half = [MIDDLE] * 3
        self._processor = Qwen2VLImageProcessor(
            patch_size=PATCH, temporal_patch_size=2, merge_size=MERGE, size=limits, image_mean=half, image_std=half
        )

    def picture(self, clip: Clip, frame: int) -> NDArray[np.float32]:
        """(3, h, w): the processor's patches put together again."""
        height, width = PixelBudget(self.units).size(clip.height, clip.width, PATCH * MERGE)
        out = self._processor(images=[load_frame_resized(clip, frame, height, width)], return_tensors="np")
        _, rows, columns = (int(n) for n in np.asarray(out["image_grid_thw"])[0])
        if (rows * PATCH, columns * PATCH) != (height, width):
            raise DataError(f"the processor made {rows * PATCH}x{columns * PATCH} of a {height}x{width} frame")
        blocks = np.asarray(out["pixel_values"], dtype=np.float32).reshape(
            rows // MERGE, columns // MERGE, MERGE, MERGE, 3, 2, PATCH, PATCH
        )
        # the patch's two time steps are the same frame twice
        return np.ascontiguousarray(blocks[:, :, :, :, :, 0].transpose(4, 0, 2, 5, 1, 3, 6)).reshape(3, height, width)
