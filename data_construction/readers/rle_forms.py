"""One mask in any form that COCO's tools and the data sets' own write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rollout.types import RLE, packed

Size = Callable[[], tuple[int, int]]
"""(height, width), asked for where a form does not say it itself."""
EMPTY: tuple[Any, ...] = (None, [], {}, "", [[]])


def as_rle(raw: Any, size: Size) -> RLE | None:
    """Compressed RLE as it is, in text or bytes; runs as a list, polygons (merged) or a list of RLE (merged) as one.

    None where nothing is there. Raises KeyError, TypeError or ValueError for what is no mask.
    """
    if isinstance(raw, dict) and isinstance(raw.get("counts"), (str, bytes)):
        return raw
    if raw in EMPTY:
        return None
    if isinstance(raw, dict):
        return _of_runs(raw)
    if not isinstance(raw, (list, tuple)):
        raise TypeError(f"found {type(raw).__name__}")
    if all(part is None or isinstance(part, dict) for part in raw):
        return _merged([as_rle(part, size) for part in raw])
    return _of_polygons(raw, size())


def _of_runs(raw: Any) -> RLE:
    from pycocotools import mask as coco_mask

    height, width = (int(n) for n in raw["size"])
    runs = [int(n) for n in raw["counts"]]
    if sum(runs) != height * width or min(runs) < 0:
        raise ValueError(f"runs cover {sum(runs)} of {height * width} pixels")
    rle: RLE = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return rle


def _merged(parts: list[RLE | None]) -> RLE | None:
    from pycocotools import mask as coco_mask

    there = [packed(p) for p in parts if p is not None]
    if len(there) < 2:
        return there[0] if there else None
    return coco_mask.merge(there)  # type: ignore[no-any-return]


def _of_polygons(raw: Any, size: tuple[int, int]) -> RLE:
    """One polygon or several, each x, y, x, y, ... or a list of points."""
    from pycocotools import mask as coco_mask

    height, width = size
    given = raw if isinstance(raw[0], (list, tuple)) else [raw]
    if len(given[0]) == 2 and not isinstance(given[0][0], (list, tuple)):
        given = [given]  # One polygon of points.
    polygons = [[float(v) for v in _flat(polygon)] for polygon in given if len(polygon)]
    if any(len(p) < 6 or len(p) % 2 for p in polygons):
        raise ValueError("a polygon needs three points or more, as x, y, x, y, ...")
    if any(max(p[0::2]) > width + 1 or max(p[1::2]) > height + 1 or min(p) < -1 for p in polygons):
        raise ValueError(f"a polygon lies outside of the image of {height} x {width}")
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))  # type: ignore[no-any-return]


def _flat(polygon: Any) -> list[Any]:
    """``[[x, y], ...]`` as ``[x, y, ...]``."""
    nested = isinstance(polygon[0], (list, tuple))
    return [v for point in polygon for v in point] if nested else list(polygon)
