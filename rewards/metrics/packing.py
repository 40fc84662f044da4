"""Masks and COCO RLE to packed words (see ``kernels``), with everything wrong about an RLE said by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    from rewards.metrics import kernels

    size = rle_size(rle, where)
    if size != (height, width):
        raise DataError(f"{where}: the RLE is {size[0]}x{size[1]} (height x width), the clip is {height}x{width}")
    raw = rle.get("counts")
    if isinstance(raw, str | bytes):
        text = np.frombuffer(raw.encode("ascii", "replace") if isinstance(raw, str) else raw, np.uint8)
        counts = np.empty(len(text), np.int64)
        found = kernels.parse_counts(text, counts) if raw.isascii() else -1
        if found < 0:
            raise DataError(f"{where}: RLE counts do not decode (not a COCO count string): {_clip(raw)}")
        counts = counts[:found]
    elif isinstance(raw, list) and all(isinstance(n, int) and abs(n) < 2**63 for n in raw):
        counts = np.array(raw, dtype=np.int64)
    else:
        raise DataError(f"{where}: RLE 'counts' must be a COCO count string or a list of integers, found {_clip(raw)}")
    if kernels.total_run(counts, height * width) != height * width:
        raise DataError(f"{where}: RLE runs do not fill {height}x{width} = {height * width} pixels: {_clip(raw)}")
    return counts


def words(length: int) -> int:
    """64-bit words that hold ``length`` pixels."""
    return (length + 63) // 64


class PackedPairs:
    """Room for some pairs of packed masks, prediction and ground truth, filled again and again."""

    def __init__(self, lines: int, length: int, pairs: int) -> None:
        """``lines`` of ``length`` pixels: columns of RLE, rows of mask arrays."""
        self.length = length
        self.masks = np.zeros((pairs, 2, words(length), lines), np.uint64)
        self.boxes = np.empty((pairs, 2, 4), np.int64)
        """Of what is set: first and last line, first and last pixel (see ``kernels``)."""

    def clear(self) -> None:
        """Every mask empty."""
        self.masks[...] = 0
        self.boxes[...] = (self.masks.shape[3], -1, self.length, -1)

    def fill_rles(self, pred: Sequence[FrameMask], gt: Sequence[FrameMask], where: str, first: int) -> None:
        """Pack frames first, first + 1, ... of a clip, one image column a line; see ``score_clip`` for what raises."""
        from rewards.metrics import kernels

        self.clear()
        size = (self.length, self.masks.shape[3])
        slots: list[int] = []
        texts: list[bytes] = []
        asked: list[tuple[RLE, int]] = []
        for slot, frame in enumerate(frame for pair in zip(pred, gt, strict=True) for frame in pair):
            for rle in frame_parts(frame):
                text = _text(rle, size)
                if text is None:
                    counts = runs(rle, *size, _where(where, slot, first))
                    kernels.pack_counts(counts, self.length, self._mask(slot), self._box(slot))
                else:
                    slots.append(slot)
                    texts.append(text)
                    asked.append((rle, slot))
        if not texts:
            return
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        masks, boxes = self.masks.reshape(-1, *self.masks.shape[2:]), self.boxes.reshape(-1, 4)
        joined = np.frombuffer(b"".join(texts), np.uint8)
        bad = kernels.pack_texts(joined, ends, np.array(slots, np.int64), self.length, masks, boxes)
        if bad >= 0:
            rle, slot = asked[bad]
            runs(rle, *size, _where(where, slot, first))  # says what is wrong
            raise DataError(f"{_where(where, slot, first)}: RLE counts do not decode: {_clip(rle['counts'])}")

    def fill_masks(self, pred: NDArray[Any], gt: NDArray[Any]) -> None:
        """Pack (n, lines, length) arrays of bool or uint8, nonzero = foreground, n at most the room's pairs."""
        from rewards.metrics import kernels

        n, lines, length = pred.shape
        bits = np.zeros((n * lines * length + 127) // 64 + 1, "<u8")
        for side, array in ((0, pred), (1, gt)):
            packed = np.packbits(array.reshape(-1), bitorder="little")
            bits.view(np.uint8)[: packed.size] = packed
            text = bits.astype(np.uint64, copy=False)
            for t in range(n):
                slot = 2 * t + side
                kernels.split_lines(text, t * lines * length, length, self._mask(slot), self._box(slot))

    def _mask(self, slot: int) -> NDArray[np.uint64]:
        out: NDArray[np.uint64] = self.masks[slot // 2, slot % 2]
        return out

    def _box(self, slot: int) -> NDArray[np.int64]:
        out: NDArray[np.int64] = self.boxes[slot // 2, slot % 2]
        return out


def _text(rle: RLE, size: tuple[int, int]) -> bytes | None:
    """The count string of an RLE that is as expected; None for one that needs a closer look."""
    try:
        counts, (height, width) = rle["counts"], rle["size"]
    except (TypeError, KeyError, ValueError):
        return None
    if (height, width) != size:
        return None
    if isinstance(counts, str):
        return counts.encode() if counts.isascii() else None
    return counts if isinstance(counts, bytes) else None


def _where(where: str, slot: int, first: int) -> str:
    return f"{where}, {'ground truth' if slot % 2 else 'prediction'}, frame {first + slot // 2}"


def _clip(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
