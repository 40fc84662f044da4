"""Areas, boxes and centres of masks, read off their run lengths: no mask is decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.readers.masks import run_lengths
from rollout.types import RLE, Masklets


def union_areas(masklets: Masklets) -> NDArray[np.int64]:
    """(T,) pixels of all objects together; equal to ``Masklets.areas``."""
    from pycocotools import mask as coco_mask

    areas = np.zeros(masklets.num_frames, dtype=np.int64)
    for t in range(masklets.num_frames):
        here = [_packed(o[t]) for o in masklets.rles if o[t] is not None]
        if here:
            areas[t] = int(coco_mask.area(coco_mask.merge(here) if len(here) > 1 else here[0]))
    return areas


def tight_box(rle: RLE | None) -> tuple[int, int, int, int] | None:
    """First and last pixel each way, x1, y1, x2, y2; None for an empty mask."""
    if rle is None:
        return None
    from pycocotools import mask as coco_mask

    x, y, w, h = (int(v) for v in coco_mask.toBbox(_packed(rle)))
    return (x, y, x + w - 1, y + h - 1) if w and h else None


def boxes_at(masklets: Masklets, frame: int) -> list[tuple[int, int, int, int]]:
    """Tight boxes of the objects that are visible in ``frame``."""
    found = (tight_box(o[frame]) for o in masklets.rles)
    return [b for b in found if b is not None]


def area_and_centre(rle: RLE) -> tuple[int, float, float]:
    """Pixels, and their mean x and y (NaN without any); equal to counting them, since all sums are of integers."""
    height = int(rle["size"][0])
    ends = np.cumsum(run_lengths(rle["counts"]))
    # Runs go down the columns, zeros first: pixel i lies at x = i // height, y = i % height.
    starts, stops = ends[0 : len(ends) - 1 : 2], ends[1::2]
    area = int((stops - starts).sum())
    if not area:
        return 0, np.nan, np.nan
    columns = int((_columns_before(stops, height) - _columns_before(starts, height)).sum())
    indices = int((stops * (stops - 1) // 2 - starts * (starts - 1) // 2).sum())
    return area, columns / area, (indices - height * columns) / area


def _columns_before(n: NDArray[np.int64], height: int) -> NDArray[np.int64]:
    """Sum of i // height over i < n."""
    whole, rest = np.divmod(n, height)
    return height * (whole * (whole - 1) // 2) + whole * rest


def _packed(rle: RLE | None) -> dict[str, Any]:
    assert rle is not None
    counts = rle["counts"]
    return {"size": rle["size"], "counts": counts.encode() if isinstance(counts, str) else counts}
