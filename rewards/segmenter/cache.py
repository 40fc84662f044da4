"""Encoded frames, kept while they are used: every rollout of a group asks for the same clip.

Frames are read by threads, ahead of the encoder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from rewards.segmenter.features import Features, FeatureSource, Levels, concat_levels, upload
from rewards.segmenter.overlap import READERS, ReadAhead
from rewards.segmenter.segmenter import Segmenter
from rollout.types import Clip

LoadFrames = Callable[[Clip, Sequence[int]], list[Image.Image]]
ENCODE_CHUNK = 8
"""Frames read and encoded at a time, so that pixels of a long clip are never all in memory."""
CHUNKS_AHEAD = READERS
"""Chunks that are being read at a time: 192 MB of pixels at 1024 x 1024."""


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
        self._ahead = ReadAhead()
        self.encoded_frames = 0
        """How many frames went through the image encoder so far."""

    def __len__(self) -> int:
        return len(self._frames)

    def holds(self, clip: Clip, frame: int) -> bool:
        """Whether ``frame`` is encoded already."""
        return self._key(clip, frame) in self._frames

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
        chunks = [missing[i : i + ENCODE_CHUNK] for i in range(0, len(missing), ENCODE_CHUNK)]
        for i, chunk in enumerate(chunks):
            self.read_ahead(clip, missing[i * ENCODE_CHUNK : (i + CHUNKS_AHEAD) * ENCODE_CHUNK])
            pixels = self._segmenter.architecture.normalise(upload(self._pixels(clip, chunk), self._segmenter.device))
            encoded = self._segmenter.encode(pixels, ENCODE_CHUNK)
            self._position = encoded.position
            self.encoded_frames += len(chunk)
            for t, levels in zip(chunk, encoded.split(), strict=True):
                found[t] = self._frames[(clip.name, clip.frames[t])] = levels
            while len(self._frames) > self.capacity:
                self._frames.popitem(last=False)
        return [found[t] for t in frames]

    def read_ahead(self, clip: Clip, frames: Sequence[int], at_once: int = 1) -> None:
        """Begin to read those of ``frames`` that are not encoded yet, ``at_once`` by one thread: one, where the encoder
        waits for the first of them."""
        fresh = [t for t in frames if not self.holds(clip, t) and self._key(clip, t) not in self._ahead]
        for part in (fresh[i : i + at_once] for i in range(0, len(fresh), at_once)):
            self._ahead.begin([self._key(clip, t) for t in part], partial(self._read, clip, part))

    @property
    def room_ahead(self) -> int:
        """Frames that may still be begun to read."""
        return min(CHUNKS_AHEAD * ENCODE_CHUNK, self.capacity) - len(self._ahead)

    def forget_ahead(self) -> None:
        """Reading goes another way from here."""
        self._ahead.forget()

    def _read(self, clip: Clip, frames: Sequence[int]) -> Tensor:
        return self._segmenter.architecture.resize(self._load(clip, frames))

    def _pixels(self, clip: Clip, frames: Sequence[int]) -> Tensor:
        """(F, S, S, 3) uint8. What was read ahead of a chunk that cannot be read is let go of."""
        try:
            return torch.stack([self._ahead.take(self._key(clip, t)) for t in frames])
        except BaseException:
            self._ahead.forget()
            raise

    @staticmethod
    def _key(clip: Clip, t: int) -> tuple[str, str]:
        return clip.name, clip.frames[t]


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
        if abs(step) != 1:
            self.cache.forget_ahead()
        elif not self.cache.holds(self.clip, self.frames[t]):
            size = min(ENCODE_CHUNK, self.cache.capacity)
            for start in range(t, t + step * size * CHUNKS_AHEAD, step * size):
                is_awaited = start == t  # at the walk's start and turn, where nothing has been read ahead
                self.cache.read_ahead(self.clip, self._chunk(start, step, size), 1 if is_awaited else size)
            self.cache.features(self.clip, self._chunk(t, step, size))

    def _chunk(self, start: int, step: int, size: int) -> list[int]:
        """At most ``size`` of the clip's frames from ``start`` on, in increasing order."""
        return [self.frames[i] for i in sorted(range(start, start + step * size, step)) if 0 <= i < len(self.frames)]
