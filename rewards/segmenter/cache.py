"""Encoded frames, kept while they are used: every rollout of a group asks for the same clip."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from rewards.segmenter.features import Features, FeatureSource, Levels, concat_levels
from rewards.segmenter.segmenter import Segmenter
from rollout.types import Clip

LoadFrames = Callable[[Clip, Sequence[int]], list[Image.Image]]
ENCODE_CHUNK = 8
"""Frames read and encoded at a time, so that pixels of a long clip are never all in memory."""


def _load_frames(clip: Clip, indices: Sequence[int]) -> list[Image.Image]:
    from rollout.frames import load_frames

    return list(load_frames(clip, indices))


class FeatureCache:
    """Least-recently-used features of single frames, at most ``max_resident_frames`` of them.

    A Hiera-L frame takes 8 MB in bfloat16 and 16 MB in float32.
    """

    def __init__(self, segmenter: Segmenter, max_resident_frames: int, load: LoadFrames = _load_frames) -> None:
        if max_resident_frames < 1:
            raise ValueError(f"max_resident_frames: {max_resident_frames}; at least one frame must fit")
        self._segmenter, self.capacity, self._load = segmenter, max_resident_frames, load
        self._frames: OrderedDict[tuple[str, str], Levels] = OrderedDict()
        self._position: Tensor | None = None
        self.encoded_frames = 0
        """How many frames went through the image encoder so far."""

    def __len__(self) -> int:
        return len(self._frames)

    def holds(self, clip: Clip, frame: int) -> bool:
        """Whether ``frame`` is encoded already."""
        return (clip.name, clip.frames[frame]) in self._frames

    def clear(self) -> None:
        """Needed whenever weights change: even the mask decoder has a part in the features."""
        self._frames.clear()

    def features(self, clip: Clip, frames: Sequence[int]) -> Features:
        """Features of ``frames``, in that order, all resident.

        Raises:
            DataError: a frame is missing or unreadable; names clip and frame.
        """
        levels = self._levels(clip, frames)
        assert self._position is not None
        return Features(concat_levels(levels), self._position)

    def source(self, clip: Clip, frames: Sequence[int]) -> FeatureSource:
        """The clip made of ``frames`` for propagation: resident if it fits the bound, else encoded as it is reached."""
        if len(frames) <= self.capacity:
            return self.features(clip, frames)
        if self._position is None:
            self.features(clip, frames[:1])
        assert self._position is not None
        return _OnDemand(self, clip, tuple(frames), self._position)

    @torch.no_grad()
    def _levels(self, clip: Clip, frames: Sequence[int]) -> list[Levels]:
        found: dict[int, Levels] = {}
        missing = []
        for t in dict.fromkeys(frames):
            key = (clip.name, clip.frames[t])
            if key in self._frames:
                self._frames.move_to_end(key)
                found[t] = self._frames[key]
            else:
                missing.append(t)
        for start in range(0, len(missing), ENCODE_CHUNK):
            chunk = missing[start : start + ENCODE_CHUNK]
            encoded = self._segmenter.encode(self._segmenter.preprocess(self._load(clip, chunk)), ENCODE_CHUNK)
            self._position = encoded.position
            self.encoded_frames += len(chunk)
            for t, levels in zip(chunk, encoded.split(), strict=True):
                found[t] = self._frames[(clip.name, clip.frames[t])] = levels
            while len(self._frames) > self.capacity:
                self._frames.popitem(last=False)
        return [found[t] for t in frames]


@dataclass
class _OnDemand:
    """A clip longer than the cache. One that is walked along is read a few frames ahead, so that the encoder sees
    groups of frames there as well."""

    cache: FeatureCache
    clip: Clip
    frames: tuple[int, ...]
    position: Tensor
    _latest: int = -1

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def gather(self, frames: Sequence[int]) -> Levels:
        if len(set(frames)) == 1:
            self._read_ahead(frames[0])
        return self.cache.features(self.clip, [self.frames[t] for t in frames]).levels

    def _read_ahead(self, t: int) -> None:
        step, self._latest = t - self._latest, t
        if abs(step) == 1 and not self.cache.holds(self.clip, self.frames[t]):
            reach = step * min(ENCODE_CHUNK, self.cache.capacity)
            ahead = [i for i in range(t, t + reach, step) if 0 <= i < len(self.frames)]
            self.cache.features(self.clip, [self.frames[i] for i in sorted(ahead)])
