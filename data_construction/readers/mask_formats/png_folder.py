"""Masks as PNG files, one a frame, or one a frame and object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry
from data_construction.readers.formats.groundmore import window
from data_construction.readers.listing import listed
from data_construction.readers.masks import Size, mask_format, missing_masks
from data_construction.readers.png_values import read_png
from data_construction.readers.spelling import mask_file, spelled_folder
from data_construction.readers.stanza import SplitFiles
from rollout.types import RLE

ANY = "any"
"""The annotation id that means every object of the clip."""


@mask_format("png_folder")
class PngFolder:
    """Files by the stanza's ``mask_files``. An id ``3@6-17`` is object 3, which counts in frames 6..17 only."""

    def __init__(self, path: Path, files: SplitFiles) -> None:
        self.path, self.files = path, files

    def read(self, entry: ClipEntry, anno_id: str, size: Size) -> list[RLE | None]:
        if not self._has_folder(entry, window(anno_id)[0]):
            raise missing_masks(self._folders(entry, window(anno_id)[0])[0], entry.name, anno_id).error()
        return self._read(entry, anno_id, size, self.files.masks_every_frame)

    def read_by_rule(self, entry: ClipEntry, anno_id: str, size: Size) -> list[RLE | None]:
        """Without a folder the object is nowhere, unless every frame must have its file; frames that the data set's
        tool leaves out for want of a file are None."""
        left_out, obj = self.files.unmasked_frames_left_out, window(anno_id)[0]
        if not self._has_folder(entry, obj) and self.files.masks_every_frame:
            return self.read(entry, anno_id, size)  # which says so
        return self._read(entry, anno_id, size, self.files.masks_every_frame and not left_out)

    def frames_with_file(self, entry: ClipEntry, anno_id: str) -> tuple[int, ...]:
        """Frames for which there is a mask file, whatever is in it."""
        obj = window(anno_id)[0]
        frames = enumerate(entry.frames)
        return tuple(
            n for n, f in frames if any(mask_file(self._path(p, entry, obj, n, f)) for p in self.files.mask_files)
        )

    def label_image(self, entry: ClipEntry, index: int) -> NDArray[np.uint8] | None:
        """(H, W) values of a frame's file, whose values are annotation ids; None where a file is one object's.

        Raises DataError for a file that is missing or cannot be read.
        """
        frame = entry.frames[index]
        file, whole = self._file(entry, ANY, index, frame, every_frame=True)
        return None if whole or file is None else read_png(file, entry.name, frame, whole).astype(np.uint8)

    def _has_folder(self, entry: ClipEntry, obj: str) -> bool:
        return any(folder.is_dir() for folder in self._folders(entry, obj))

    def _read(self, entry: ClipEntry, anno_id: str, size: Size, every_frame: bool) -> list[RLE | None]:
        obj, counted = window(anno_id)
        rles: list[RLE | None] = []
        for index, frame in enumerate(entry.frames):
            in_window = counted is None or index in counted
            file, whole = self._file(entry, obj, index, frame, every_frame) if in_window else (None, False)
            if file is None:
                rles.append(None)
                continue
            values = read_png(file, entry.name, frame, whole or obj == ANY)
            if not whole and obj != ANY and not (obj.isdecimal() and int(obj) > 0):
                what = f"cannot hold annotation {obj!r}: values of objects are numbers from 1, 0 is the background"
                raise Problem("no_masks", str(file), what, entry.name, frame).error()
            mask = values > 0 if whole or obj == ANY else values == int(obj)
            rles.append(_encode(mask) if mask.any() else _empty(mask, size))
        return rles

    def strays(self, entry: ClipEntry) -> list[Path]:
        """Mask files of the clip that belong to none of its frames."""
        objects = {window(a)[0] for e in entry.expressions.values() for a in e.anno_ids} or {ANY}
        frames = list(enumerate(entry.frames))
        wanted = (self._path(p, entry, o, n, f) for p in self.files.mask_files for o in objects for n, f in frames)
        known = {mask_file(path) for path in wanted}
        folders = {folder for obj in objects for folder in self._folders(entry, obj) if folder.is_dir()}
        there = (p for folder in sorted(folders) for p in listed(folder) if p.suffix.lower() == ".png")
        return [p for p in there if p not in known]

    def _folders(self, entry: ClipEntry, obj: str) -> list[Path]:
        return [spelled_folder(self._path(p, entry, obj, 0, "x").parent) for p in self.files.mask_files]

    def _path(self, pattern: str, entry: ClipEntry, obj: str, index: int, frame: str) -> Path:
        stem = Path(frame).stem
        return self.path / pattern.format(clip=entry.name, frame=stem, index=index, anno=obj, source=entry.source)

    def _file(self, entry: ClipEntry, obj: str, index: int, frame: str, every_frame: bool) -> tuple[Path | None, bool]:
        """The frame's file, and whether all of it is one object; None where there is no object in the frame."""
        for pattern in self.files.mask_files:
            path = mask_file(self._path(pattern, entry, obj, index, frame))
            if path is not None:
                return path, "{anno}" in pattern
        if every_frame:
            path = self._path(self.files.mask_files[0], entry, obj, index, frame)
            raise Problem("missing_mask", str(path), "does not exist", entry.name, frame).error()
        return None, False


def _encode(mask: NDArray[np.bool_]) -> RLE:
    from pycocotools import mask as coco_mask

    rle: RLE = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return rle


def _empty(mask: NDArray[np.bool_], size: Size) -> RLE | None:
    """None where the object is absent; an empty mask of the wrong size stays, so that its size is found wrong."""
    return None if mask.shape == size() else _encode(mask)
