"""J and F of a whole clip, from RLE or from masks, one frame in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics.boundary import BoundaryScorer
from eval.metrics.packing import FrameMask, frame_parts, pack_masks, pack_rles, rle_size, words
from eval.metrics.region import Overlap, Scores, region_j, visible
from rollout.errors import DataError

PackedPair = tuple[NDArray[np.uint64], NDArray[np.uint64]]


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

    def pairs() -> Iterator[PackedPair]:
        height, width = size
        a, b = (np.zeros((width, words(height)), np.uint64) for _ in range(2))
        for t, (p, g) in enumerate(zip(pred, gt, strict=True)):
            pack_rles(p, height, width, a, f"{where}, prediction, frame {t}")
            pack_rles(g, height, width, b, f"{where}, ground truth, frame {t}")
            yield a, b

    return _score(pairs(), len(gt), BoundaryScorer(*size, columns=True))


def jf_rles(pred: Sequence[FrameMask], gt: Sequence[FrameMask]) -> tuple[Scores, Scores]:
    """(J (T,), F (T,)) of two lists of COCO RLE, one entry a frame. See ``score_clip``."""
    scores = score_clip(pred, gt)
    return scores.j, scores.f


def jf_masks(pred: ArrayLike, gt: ArrayLike) -> tuple[Scores, Scores]:
    """(J (T,), F (T,)) of two mask arrays (T, H, W) of any dtype, nonzero = foreground. Raises DataError on shapes."""
    p, g = np.asarray(pred), np.asarray(gt)
    if p.shape != g.shape or p.ndim != 3 or 0 in p.shape[1:]:
        raise DataError(f"masks must both be (T, H, W): prediction {p.shape}, ground truth {g.shape}")
    columns = p.strides[1] < p.strides[2] and g.strides[1] < g.strides[2]  # as pycocotools decodes: no copy that way
    boundary = BoundaryScorer(p.shape[1], p.shape[2], columns=columns)
    if columns:
        p, g = p.swapaxes(1, 2), g.swapaxes(1, 2)
    pairs = ((pack_masks(a), pack_masks(b)) for a, b in zip(p, g, strict=True))
    scores = _score(pairs, len(p), boundary)
    return scores.j, scores.f


def _score(pairs: Iterator[PackedPair], frames: int, boundary: BoundaryScorer) -> ClipScores:
    from eval.metrics import kernels

    overlap, f = np.zeros((frames, 3), np.int64), np.empty(frames)
    for t, (pred, gt) in enumerate(pairs):
        kernels.overlap(pred, gt, overlap[t])
        f[t] = boundary(pred, gt) if overlap[t, 1:].any() else 1.0
    return ClipScores(region_j(overlap), f, overlap)


def _first_size(frames: Sequence[FrameMask], where: str) -> tuple[int, int] | None:
    for t, frame in enumerate(frames):
        for rle in frame_parts(frame):
            return rle_size(rle, f"{where}, frame {t}")
    return None
