"""SAM 2's frozen features of a step's frames, made once: every pass and every rollout of a group draws on the same few.

Kept is what no training changes (trunk and neck); the mask decoder's own convolutions run on it at each use, with
gradients. Frames are read from disk by threads while the pass before them computes.

Shape legend: F frames, S SAM 2's input size, d its width; a frame's levels: (1, d, S/4, S/4), (1, d, S/8, S/8),
(1, d, S/16, S/16), together 44 MiB at Hiera-L in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from rewards.segmenter.features import Features, Levels
from rewards.segmenter.segmenter import Segmenter
from rollout.pictures import Picture, PictureStore
from rollout.types import Sample

CHUNK = 8
"""Frames that the encoder sees at a time."""
PIXEL_BYTES = 256 << 20
"""Frames read ahead of the encoder: 85 of 1024 x 1024."""

Frame = tuple[Sample, int]
FeaturesOf = Callable[[Segmenter], Features]
"""Given to the policy's forward, where FSDP has the encoder's weights together."""


class FrameFeatures:
    """Frozen levels by frame, as far as they fit; what does not is encoded again, with the same numbers.

    First come, first kept: passes go through a step's frames in one order, and an LRU that is a little too small would
    always drop the one that is next.
    """

    def __init__(self, side: int, near: int, far: int) -> None:
        """
        Args:
            side: S.
            near: bytes to keep where the encoder runs.
            far: further bytes to keep in host memory, for an encoder that runs elsewhere.
        """
        self._side, self._near_limit, self._far_limit = side, near, far
        self._pictures = PictureStore(PIXEL_BYTES)
        self._near: dict[str, Levels] = {}
        self._far: dict[str, Levels] = {}
        self._near_bytes = self._far_bytes = 0
        self.encoded = 0
        """Frames that went through the encoder so far."""

    def __len__(self) -> int:
        """Frames that are kept."""
        return len(self._near) + len(self._far)

    def forget(self) -> None:
        """Let go of all frames: the step is over, or the memory is needed."""
        self._near.clear()
        self._far.clear()
        self._near_bytes = self._far_bytes = 0

    def read_ahead(self, frames: Sequence[Frame]) -> None:
        """Begin to read those of ``frames``, in order of use, that will have to be encoded."""
        self._pictures.read_ahead([self._picture(f) for f in frames if not self._holds(f)])

    def of(self, frames: Sequence[Frame]) -> FeaturesOf:
        """What makes the features of F ``frames`` with a segmenter; of one blank frame if there are none (a process
        without ``[SEG]`` uses every parameter of the decoder like the others, or FSDP's reduce would differ).

        Raises:
            DataError: (when called) a frame cannot be read; names clip, frame and file.
        """
        return partial(self._features, tuple(frames))

    def _features(self, frames: Sequence[Frame], segmenter: Segmenter) -> Features:
        if not frames:
            return segmenter.project([blank_levels(segmenter)])
        missing = [f for f in frames if not self._holds(f)]
        fresh = dict(zip(map(_key, missing), self._encode(missing, segmenter), strict=True))
        return segmenter.project([fresh.get(_key(f)) or self._kept(_key(f), segmenter.device) for f in frames])

    def _encode(self, frames: Sequence[Frame], segmenter: Segmenter) -> list[Levels]:
        dtype = next(segmenter.parameters()).dtype
        found: list[Levels] = []
        for start in range(0, len(frames), CHUNK):
            group = frames[start : start + CHUNK]
            images = self._pictures.get([self._picture(f) for f in group])
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
            levels = segmenter.encode_frozen(
                segmenter.architecture.normalise(pixels.to(segmenter.device)).to(dtype), CHUNK
            )
            for frame, one in zip(group, levels, strict=True):
                self._keep(_key(frame), one)
            found += levels
        self.encoded += len(found)
        return found

    def _keep(self, key: str, levels: Levels) -> None:
        size = sum(level.nbytes for level in levels)
        if self._near_bytes + size <= self._near_limit:
            self._near[key] = levels
            self._near_bytes += size
        elif self._far_bytes + size <= self._far_limit:
            self._far[key] = _moved(levels, torch.device("cpu"))
            self._far_bytes += size

    def _kept(self, key: str, device: torch.device) -> Levels:
        return self._near[key] if key in self._near else _moved(self._far[key], device)

    def _holds(self, frame: Frame) -> bool:
        return _key(frame) in self._near or _key(frame) in self._far

    def _picture(self, frame: Frame) -> Picture:
        sample, index = frame
        return Picture(sample.clip, index, self._side, self._side)


def _key(frame: Frame) -> str:
    return frame[0].clip.frames[frame[1]]


def _moved(levels: Levels, device: torch.device) -> Levels:
    """Copies, queued behind what the GPU is doing; host memory is pinned for it."""
    pinned = device.type == "cpu" and levels[0].is_cuda
    fine, middle, coarse = (
        torch.empty_like(level, device=device, pin_memory=pinned).copy_(level, non_blocking=True) for level in levels
    )
    return fine, middle, coarse


def blank_levels(segmenter: Segmenter) -> Levels:
    """Zeros in the place of a frame's frozen levels."""
    width, grid = segmenter.architecture.feature_width, segmenter.architecture.grid
    like = next(segmenter.parameters())
    fine, middle, coarse = (like.new_zeros(1, width, grid * k, grid * k) for k in (4, 2, 1))
    return fine, middle, coarse
