"""Masks and COCO RLE to packed words (see ``kernels``), with everything wrong about an RLE said by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.errors import DataError
from rollout.types import RLE

FrameMask = RLE | None | Sequence[RLE | None]
"""What one frame may hold: one RLE, None for an empty mask, or several of both, merged by OR."""


def frame_parts(frame: FrameMask) -> list[RLE]:
    """The RLEs of one frame, empties left out."""
    if frame is None:
        return []
    if isinstance(frame, dict):
        return [frame]
    return [rle for rle in frame if rle is not None]


def rle_size(rle: RLE, where: str) -> tuple[int, int]:
    """(height, width) as the RLE states it. Raises DataError if it states none."""
    size = rle.get("size") if isinstance(rle, dict) else None
    if not isinstance(size, list | tuple) or len(size) != 2 or any(not isinstance(n, int) or n < 1 for n in size):
        raise DataError(f"{where}: an RLE needs 'size': [height, width] in pixels, found {size!r}")
    return size[0], size[1]


def runs(rle: RLE, height: int, width: int, where: str) -> NDArray[np.int64]:
    """(R,) int64 run lengths down the columns, zeros first. Raises DataError unless they fill height x width."""
    from eval.metrics import kernels

    size = rle_size(rle, where)
    if size != (height, width):
        raise DataError(f"{where}: the RLE is {size[0]}x{size[1]} (height x width), the clip is {height}x{width}")
    raw = rle.get("counts")
    if isinstance(raw, str | bytes):
        text = np.frombuffer(raw.encode("ascii", "replace") if isinstance(raw, str) else raw, np.uint8)
        counts = np.empty(len(text), np.int64)
        found = kernels.parse_counts(text, counts)
        if found < 0:
            raise DataError(f"{where}: RLE counts do not decode (not a COCO count string): {_clip(raw)}")
        counts = counts[:found]
    elif isinstance(raw, list) and all(isinstance(n, int) for n in raw):
        counts = np.array(raw, dtype=np.int64)
    else:
        raise DataError(f"{where}: RLE 'counts' must be a COCO count string or a list of integers, found {_clip(raw)}")
    if kernels.total_run(counts, height * width) != height * width:
        raise DataError(f"{where}: RLE runs do not fill {height}x{width} = {height * width} pixels: {_clip(raw)}")
    return counts


def words(length: int) -> int:
    """64-bit words that hold ``length`` pixels."""
    return (length + 63) // 64


def pack_rles(frame: FrameMask, height: int, width: int, out: NDArray[np.uint64], where: str) -> None:
    """Write the OR of a frame's RLEs into ``out`` (width, words(height)), one image column a line."""
    from eval.metrics import kernels

    out[...] = 0
    for rle in frame_parts(frame):
        kernels.or_runs(runs(rle, height, width, where), height, out)


def pack_masks(masks: ArrayLike) -> NDArray[np.uint64]:
    """(..., H, W), nonzero = foreground, to (..., H, words(W)) uint64, one image row a line."""
    m = np.asarray(masks)
    if m.dtype not in (np.bool_, np.uint8):
        m = m != 0
    packed = np.packbits(np.ascontiguousarray(m), axis=-1, bitorder="little")
    missing = words(m.shape[-1]) * 8 - packed.shape[-1]
    if missing:
        packed = np.concatenate([packed, np.zeros((*packed.shape[:-1], missing), np.uint8)], axis=-1)
    return packed.view("<u8").astype(np.uint64, copy=False)


def _clip(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
