"""Masks that stand in the annotation files themselves, as RLE or polygons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry
from data_construction.readers.files import read_json_shared
from data_construction.readers.formats.images import read_reasonseg
from data_construction.readers.masks import Size, mask_format, missing_masks, one_form
from data_construction.readers.stanza import SplitFiles
from rollout.errors import DataError
from rollout.types import RLE


@mask_format("in_annotations")
class InAnnotations:
    """What the clip's entry holds (ViCaS, Ref-SAV's training part, GCG)."""

    def __init__(self, path: Path, files: SplitFiles) -> None:
        self.path = path

    def read(self, entry: ClipEntry, anno_id: str, size: Size) -> list[RLE | None]:
        if anno_id not in entry.masks:
            raise missing_masks(self.path, entry.name, anno_id).error()
        return one_form(entry.masks[anno_id], size, self.path, entry, anno_id)


@mask_format("coco_instances")
class CocoInstances:
    """RefCOCO's ``instances.json``: annotations by id with ``segmentation`` and ``image_id``."""

    sized = False

    def __init__(self, path: Path, files: SplitFiles) -> None:
        self.path = path
        self._annotations: dict[str, Any] | None = None

    def read(self, entry: ClipEntry, anno_id: str, size: Size) -> list[RLE | None]:
        if self._annotations is None:
            raw = read_json_shared(self.path)
            found = raw.get("annotations") if isinstance(raw, dict) else None
            if not isinstance(found, list):
                raise DataError(f"{self.path}: no list under 'annotations'; is this COCO's instances file?")
            self._annotations = {str(a.get("id")): a for a in found if isinstance(a, dict)}
        annotation = self._annotations.get(anno_id)
        if annotation is None or "segmentation" not in annotation:
            raise missing_masks(self.path, entry.name, anno_id).error()
        if str(annotation.get("image_id")) != entry.name.rpartition("_")[2].lstrip("0"):
            what = f"belongs to image {annotation.get('image_id')}"
            raise Problem("wrong_image", str(self.path), what, entry.name, item=f"annotation {anno_id}").error()
        return one_form([annotation["segmentation"]], size, self.path, entry, anno_id)


@mask_format("reasonseg")
class ReasonSegPolygons:
    """ReasonSeg's polygons, drawn as its authors do: large ones first, ``ignore`` covers, ``flag`` is left out."""

    sized = False

    def __init__(self, path: Path, files: SplitFiles) -> None:
        self.path = path

    def read(self, entry: ClipEntry, anno_id: str, size: Size) -> list[RLE | None]:
        import cv2
        import numpy as np
        from pycocotools import mask as coco_mask

        path = self.path / f"{entry.name}.json"
        drawn = []
        for n, shape in enumerate(read_reasonseg(path, entry.name)["shapes"]):
            try:
                label, points = str(shape["label"]).lower(), np.array([shape["points"]], dtype=np.float64)
                if points.ndim != 3 or points.shape[2] != 2 or not np.isfinite(points).all():
                    raise ValueError(f"points have shape {points.shape}")
            except (KeyError, TypeError, ValueError) as e:
                what = f"is not a polygon ({type(e).__name__}: {e})"
                raise Problem("mask_runs", str(path), what, entry.name, entry.frames[0], f"shape {n}").error() from e
            self._inside(points, size(), path, entry, n)
            canvas: Any = np.zeros(size(), np.uint8)
            corners: Any = points.astype(np.int32)
            cv2.polylines(canvas, corners, True, 1, 1)
            cv2.fillPoly(canvas, corners, 1)
            if label != "flag":
                drawn.append((int(canvas.sum()), "ignore" in label, canvas > 0))
        out = np.zeros(size(), bool)
        for _, ignored, mask in sorted(drawn, key=lambda d: -d[0]):
            out = out & ~mask if ignored else out | mask
        rle: RLE = coco_mask.encode(np.asfortranarray(out.astype(np.uint8)))
        return [rle if out.any() else None]

    def _inside(self, points: Any, size: tuple[int, int], path: Path, entry: ClipEntry, n: int) -> None:
        """Polygons may touch the border, but not lie outside of the image."""
        slack = 1 + 0.02 * max(size)
        low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
        if (low < -slack).any() or high[0] > size[1] + slack or high[1] > size[0] + slack:
            what = f"reaches to {high[1]:.0f} x {high[0]:.0f} in an image of {size[0]} x {size[1]} (height x width)"
            raise Problem("mask_size", str(path), what, entry.name, entry.frames[0], f"shape {n}").error()
