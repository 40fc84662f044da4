"""Clips whose objects are described by words, as the mask warm-up draws them.

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

Query = tuple[str, ...]
"""Words that name objects: all that have every word, for example ("red",) or ("red", "circle")."""


@dataclass(frozen=True)
class WarmUpObject:
    """One object of a clip and the words that describe it, the most telling one first."""

    words: Query
    masklets: Masklets
    index: int


@dataclass
class WarmUpClip:
    """One clip with all its described objects; frames and masks are decoded once."""

    clip: Clip
    objects: list[WarmUpObject] = field(default_factory=list)
    _frames: dict[int, Tensor] = field(default_factory=dict)
    _masks: dict[tuple[int, int], NDArray[np.bool_]] = field(default_factory=dict)

    def pixels(self, segmenter: Segmenter, frames: Sequence[int]) -> Tensor:
        """(F, 3, S, S) encoder input."""
        from rollout.frames import load_frames

        if missing := [t for t in dict.fromkeys(frames) if t not in self._frames]:
            for t, pixels in zip(missing, segmenter.preprocess(load_frames(self.clip, missing)), strict=True):
                self._frames[t] = pixels.to(torch.float16)
        return torch.stack([self._frames[t] for t in frames]).float()

    def mask(self, query: Query, frame: int) -> NDArray[np.bool_]:
        """(H, W) union of the objects that ``query`` names."""
        merged = np.zeros((self.clip.height, self.clip.width), dtype=np.bool_)
        for k, described in enumerate(self.objects):
            if set(query) <= set(described.words):
                merged |= self._object_mask(k, frame)
        return merged

    def visible(self, frame: int) -> list[Query]:
        """The full description of every object in ``frame``."""
        seen = [o.words for k, o in enumerate(self.objects) if self._object_mask(k, frame).any()]
        return list(dict.fromkeys(seen))

    def box(self, query: Query, frame: int) -> tuple[float, float, float, float]:
        """Tight x0, y0, x1, y1 in pixels of the clip; the mask must not be empty."""
        rows, columns = np.nonzero(self.mask(query, frame))
        return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)

    def click(self, frame: int, rng: np.random.Generator) -> tuple[tuple[float, float], NDArray[np.bool_]]:
        """x, y in pixels of the clip on any object that is visible there, and that object's own mask."""
        seen = [k for k in range(len(self.objects)) if self._object_mask(k, frame).any()]
        mask = self._object_mask(seen[int(rng.integers(len(seen)))], frame)
        rows, columns = np.nonzero(mask)
        at = int(rng.integers(len(rows)))
        return (float(columns[at]) + 0.5, float(rows[at]) + 0.5), mask

    def _object_mask(self, k: int, frame: int) -> NDArray[np.bool_]:
        if (k, frame) not in self._masks:
            self._masks[k, frame] = self.objects[k].masklets.object_mask(self.objects[k].index, frame)
        return self._masks[k, frame]


def soft_targets(masks: Sequence[NDArray[np.bool_]], side: int) -> Tensor:
    """(N, h, h) share of each cell that the mask covers, so that bilinear logits learn where its edge is."""
    full = torch.from_numpy(np.stack(masks)).float()
    return F.interpolate(full[:, None], size=(side, side), mode="area")[:, 0]


def collect_clips(samples: Sequence[Sample], words: Mapping[str, str | Sequence[str]]) -> list[WarmUpClip]:
    """Clips of ``samples`` with every object that ``words`` describes, in order of first appearance.

    Args:
        words: annotation id -> its word or words, the most telling one first.
    Raises:
        DataError: no sample has a described object.
    """
    clips: dict[str, WarmUpClip] = {}
    seen: set[tuple[str, str]] = set()
    for sample in samples:
        if sample.masklets is None:
            continue
        entry = clips.setdefault(sample.clip.name, WarmUpClip(sample.clip))
        for index, anno_id in enumerate(sample.expression.anno_ids):
            if anno_id in words and (sample.clip.name, anno_id) not in seen:
                seen.add((sample.clip.name, anno_id))
                word = words[anno_id]
                query = (word,) if isinstance(word, str) else tuple(word)
                entry.objects.append(WarmUpObject(query, sample.masklets, index))
    found = [c for c in clips.values() if c.objects]
    if not found:
        raise DataError(
            f"mask warm-up: none of the {len(samples)} samples has one of the {len(words)} described objects; "
            "give annotation ids of the same data set"
        )
    return found
