"""J and F of a whole clip, from RLE or from masks, a few frames in memory at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewards.metrics.boundary import boundary_radius, growth, half_widths
from rewards.metrics.packing import FrameMask, PackedPairs, frame_parts, rle_size, words
from rewards.metrics.region import Overlap, Scores, region_j, visible
from rollout.errors import DataError

BATCH_BYTES, MOST_PAIRS = 1 << 20, 32
"""Frames are packed until so much memory is full: little enough to stay in a core's cache."""


@dataclass(frozen=True)
class ClipScores:
    """Per-frame scores of one clip, 0..1."""

    j: Scores
    """(T,) region similarity."""
    f: Scores
    """(T,) boundary accuracy."""
    overlap: Overlap
    """(T, 3) pixels: intersection, prediction, ground truth."""

    @property
    def gt_visible(self) -> NDArray[np.bool_]:
        """(T,) frames in which ground truth shows."""
        return visible(self.overlap)

    @property
    def pred_visible(self) -> NDArray[np.bool_]:
        """(T,) frames in which something is predicted."""
        return self.overlap[:, 1] > 0


def score_clip(
    pred: Sequence[FrameMask], gt: Sequence[FrameMask], size: tuple[int, int] | None = None, where: str = "clip"
) -> ClipScores:
    """Score RLE against RLE, frame by frame; None is an empty mask, several RLEs of a frame are merged by OR.

    ``size`` (height, width) defaults to that of the first RLE found. Raises DataError with ``where``, the side and the
    frame number for an RLE of another size or one that does not decode, and for lists of different length.
    """
    if len(pred) != len(gt):
        raise DataError(f"{where}: {len(pred)} predicted frames against {len(gt)} of ground truth")
    size = size or _first_size(gt, f"{where}, ground truth") or _first_size(pred, f"{where}, prediction")
    if size is None:  # nothing predicted, nothing there
        ones = np.ones(len(gt))
        return ClipScores(ones, ones.copy(), np.zeros((len(gt), 3), np.int64))

    def fill(room: PackedPairs, first: int, stop: int) -> None:
        room.fill_rles(pred[first:stop], gt[first:stop], where, first)

    return _workspace(size[1], size[0], threading.get_ident()).score(len(gt), fill)


def jf_rles(pred: Sequence[FrameMask], gt: Sequence[FrameMask]) -> tuple[Scores, Scores]:
    """(J (T,), F (T,)) of two lists of COCO RLE, one entry a frame. See ``score_clip``."""
    scores = score_clip(pred, gt)
    return scores.j, scores.f


def jf_masks(pred: ArrayLike, gt: ArrayLike) -> tuple[Scores, Scores]:
    """(J (T,), F (T,)) of two mask arrays (T, H, W) of any dtype, nonzero = foreground. Raises DataError on shapes."""
    p, g = np.asarray(pred), np.asarray(gt)
    if p.shape != g.shape or p.ndim != 3 or 0 in p.shape[1:]:
        raise DataError(f"masks must both be (T, H, W): prediction {p.shape}, ground truth {g.shape}")
    if p.strides[1] < p.strides[2] and g.strides[1] < g.strides[2]:  # as pycocotools decodes: no copy that way
        p, g = p.swapaxes(1, 2), g.swapaxes(1, 2)

    def fill(room: PackedPairs, first: int, stop: int) -> None:
        room.fill_masks(_bits(p[first:stop]), _bits(g[first:stop]))

    scores = _workspace(p.shape[1], p.shape[2], threading.get_ident()).score(len(p), fill)
    return scores.j, scores.f


class Workspace:
    """Scores clips of one frame size, whose memory it keeps."""

    def __init__(self, lines: int, length: int) -> None:
        from rewards.metrics.frame_kernels import TILE, WIDEST

        pairs = min(max(BATCH_BYTES // (16 * words(length) * lines), 1), MOST_PAIRS)
        self.room = PackedPairs(lines, length, pairs)
        self.radius = boundary_radius(lines, length)
        self.is_wide = self.radius > WIDEST
        fits = 0 if self.is_wide else self.radius
        self.growth = growth(fits)
        self.edges = np.empty((2, words(length), lines), np.uint64)
        self.windows = np.empty((2, (length - 1) // (64 - 2 * fits) + 1, lines + TILE + 2 * fits), np.uint64)

    def score(self, frames: int, fill: Callable[[PackedPairs, int, int], None]) -> ClipScores:
        """Scores of all frames; ``fill(room, first, stop)`` packs those from ``first`` to before ``stop``."""
        overlap, f = np.zeros((frames, 3), np.int64), np.ones(frames)
        pairs = len(self.room.masks)
        for first in range(0, frames, pairs):
            stop = min(first + pairs, frames)
            fill(self.room, first, stop)
            self._score(stop - first, overlap[first:stop], f[first:stop])
        return ClipScores(region_j(overlap), f, overlap)

    def _score(self, n: int, overlap: Overlap, f: Scores) -> None:
        from rewards.metrics import frame_kernels, wide_kernels

        masks, boxes, length = self.room.masks[:n], self.room.boxes[:n], self.room.length
        frame_kernels.score_frames(masks, boxes, length, self.growth, self.edges, self.windows, overlap, f)
        if self.is_wide:
            shape = (masks.shape[3], masks.shape[2])
            edges = np.empty(shape, np.uint64), np.empty(shape, np.uint64)
            for t, (pred, gt) in enumerate(masks):
                lined = np.ascontiguousarray(pred.T), np.ascontiguousarray(gt.T)
                f[t] = wide_kernels.boundary_f(*lined, length, self.radius, half_widths(self.radius), *edges)


@lru_cache(maxsize=8)
def _workspace(lines: int, length: int, thread: int) -> Workspace:
    return Workspace(lines, length)


def _bits(masks: NDArray) -> NDArray:
    return np.ascontiguousarray(masks if masks.dtype in (np.bool_, np.uint8) else masks != 0)


def _first_size(frames: Sequence[FrameMask], where: str) -> tuple[int, int] | None:
    for t, frame in enumerate(frames):
        for rle in frame_parts(frame):
            return rle_size(rle, f"{where}, frame {t}")
    return None
