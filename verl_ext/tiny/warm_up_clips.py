"""Clips with a named attribute per object, as the mask warm-up draws them.

Shape legend: S side of the segmenter's input, h = S / 4, T frames of a clip, H x W pixels of a clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rewards.segmenter import Segmenter
from rollout.errors import DataError
from rollout.types import Clip, Masklets, Sample


@dataclass
class WarmUpClip:
    """One clip and, per attribute, the masks of all its objects that have it."""

    clip: Clip
    parts: dict[str, list[tuple[Masklets, int]]] = field(default_factory=dict)
    """attribute -> (masklets, index of the object in them)"""
    _frames: dict[int, Tensor] = field(default_factory=dict)
    _masks: dict[tuple[str, int], NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def attributes(self) -> list[str]:
        return sorted(self.parts)

    def pixels(self, segmenter: Segmenter, frames: Sequence[int]) -> Tensor:
        """(F, 3, S, S) encoder input; each frame is read and resized once."""
        from rollout.frames import load_frames

        if missing := [t for t in dict.fromkeys(frames) if t not in self._frames]:
            for t, pixels in zip(missing, segmenter.preprocess(load_frames(self.clip, missing)), strict=True):
                self._frames[t] = pixels.to(torch.float16)
        return torch.stack([self._frames[t] for t in frames]).float()

    def mask(self, attribute: str, frame: int) -> NDArray[np.bool_]:
        """(H, W); empty where the clip has no such object."""
        key = (attribute, frame)
        if key not in self._masks:
            merged = np.zeros((self.clip.height, self.clip.width), dtype=np.bool_)
            for masklets, index in self.parts.get(attribute, ()):
                merged |= masklets.object_mask(index, frame)
            self._masks[key] = merged
        return self._masks[key]

    def box(self, attribute: str, frame: int) -> tuple[float, float, float, float]:
        """Tight x0, y0, x1, y1 in pixels of the clip; the mask must not be empty."""
        rows, columns = np.nonzero(self.mask(attribute, frame))
        return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)

    def visible(self, frame: int) -> list[str]:
        return [a for a in self.attributes if self.mask(a, frame).any()]


def soft_targets(masks: Sequence[NDArray[np.bool_]], side: int) -> Tensor:
    """(N, h, h) share of each cell that the mask covers, so that bilinear logits learn where its edge is."""
    full = torch.from_numpy(np.stack(masks)).float()
    return F.interpolate(full[:, None], size=(side, side), mode="area")[:, 0]


def collect_clips(samples: Sequence[Sample], attributes: Mapping[str, str]) -> list[WarmUpClip]:
    """Clips of ``samples`` with every object that ``attributes`` names, in order of first appearance.

    Args:
        attributes: annotation id -> attribute, for example its colour.
    Raises:
        DataError: no sample has an object with an attribute.
    """
    clips: dict[str, WarmUpClip] = {}
    seen: set[tuple[str, str]] = set()
    for sample in samples:
        if sample.masklets is None:
            continue
        entry = clips.setdefault(sample.clip.name, WarmUpClip(sample.clip))
        for index, anno_id in enumerate(sample.expression.anno_ids):
            if anno_id in attributes and (sample.clip.name, anno_id) not in seen:
                seen.add((sample.clip.name, anno_id))
                entry.parts.setdefault(attributes[anno_id], []).append((sample.masklets, index))
    found = [c for c in clips.values() if c.parts]
    if not found:
        raise DataError(
            f"mask warm-up: none of the {len(samples)} samples has an object among the {len(attributes)} attributes; "
            "give annotation ids of the same data set"
        )
    return found
