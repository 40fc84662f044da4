"""Mask formats: from an annotation id to one RLE or None a frame, with every misfit named.

A new format is a file in ``readers/mask_formats`` with a class under ``@mask_format``; stanzas name it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry
from data_construction.readers.rle_forms import Size, as_rle
from data_construction.readers.stanza import SplitFiles
from rollout.errors import DataError
from rollout.plugins import import_files_of
from rollout.types import RLE


class MaskSource(Protocol):
    """Where a split's masks come from."""

    path: Path

    def read(self, entry: ClipEntry, anno_id: str, size: Size) -> list[RLE | None]:
        """One entry a frame of the file (so perhaps not one a frame of the clip). Raises DataError.

        ``size`` gives the frames' (height, width), for formats that do not say it themselves. A format may also have
        ``read_by_rule``, of the same form, which takes what the data set's own tool takes.
        """
        ...


FORMATS: dict[str, Callable[[Path, SplitFiles], MaskSource]] = {}


def mask_format(name: str) -> Callable[[type], type]:
    """Register a mask source, made of (path, split), under the name that stanzas use."""

    def register(cls: type) -> type:
        FORMATS[name] = cls
        return cls

    return register


def open_masks(path: Path, files: SplitFiles) -> MaskSource:
    """The mask source at ``path``. Raises DataError for an unknown format."""
    import_files_of("data_construction.readers.mask_formats")
    if files.mask_format not in FORMATS:
        raise DataError(f"no mask format {files.mask_format!r}; registered are {', '.join(sorted(FORMATS))}")
    return FORMATS[files.mask_format](path, files)


def missing_masks(path: Path, clip: str, anno_id: str) -> Problem:
    """An annotation id that the mask file does not know."""
    return Problem("no_masks", str(path), "has no masks", clip, item=f"annotation {anno_id}", remedy="add or remove it")


def one_form(masks: Sequence[Any], size: Size, path: Path, entry: ClipEntry, anno_id: str) -> list[RLE | None]:
    """Masks in any of COCO's forms as compressed RLE. Raises DataError (clip and frame named) for others."""
    out: list[RLE | None] = []
    for t, raw in enumerate(masks):
        try:
            out.append(as_rle(raw, size))
        except (KeyError, TypeError, ValueError, IndexError) as e:
            what = f"has no mask that COCO's tools know ({type(e).__name__}: {e})"
            frame = entry.frames[t] if t < len(entry.frames) else ""
            raise Problem("mask_runs", str(path), what, entry.name, frame, f"annotation {anno_id}").error() from e
    return out


def rle_problems(
    rles: Sequence[Any], frames: Sequence[str], size: tuple[int, int], path: Path, clip: str, anno_id: str
) -> list[Problem]:
    """Every misfit between one annotation's RLEs and its clip: number, pixel size (H, W), and the runs themselves."""
    item = f"annotation {anno_id}"
    out: list[Problem] = []
    if len(rles) != len(frames):
        at = frames[min(len(rles), len(frames) - 1)]
        what = f"mask list has {len(rles)} entries for {len(frames)} frames"
        out.append(Problem("mask_count", str(path), what, clip, at, item, "one RLE or null a frame"))
    for frame, rle in zip(frames, rles, strict=False):
        if rle is None:
            continue
        found = tuple(rle["size"]) if isinstance(rle, dict) and "size" in rle else None
        if found != size:
            what = f"mask of size {found} on a frame of size {size} (height, width)"
            out.append(Problem("mask_size", str(path), what, clip, frame, item))
        elif (pixels := rle_pixels(rle.get("counts"))) != size[0] * size[1]:
            what = f"runs cover {pixels} of {size[0] * size[1]} pixels"
            out.append(Problem("mask_runs", str(path), what, clip, frame, item, "the RLE is damaged or not compressed"))
    return out


def rle_pixels(counts: Any) -> int:
    """Pixels that a compressed COCO run-length string (str or bytes) covers; -1 if it is malformed.

    pycocotools decodes a damaged string to uninitialised memory without a word, so the runs are summed first.
    """
    if not isinstance(counts, (str, bytes)):
        return -1
    codes = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return -1
    runs = _runs(codes)
    return int(runs.sum()) if runs.min() >= 0 else -1


def run_lengths(counts: str | bytes) -> NDArray[np.int64]:
    """Runs of a sound compressed string, zeros first; pixels go down the columns."""
    data = counts.encode() if isinstance(counts, str) else counts
    return _runs(np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48)


def _runs(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Run lengths from six-bit codes: five value bits each, low bits first, 0x20 = continued, 0x10 = sign."""
    last = (codes & 0x20) == 0
    first = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    place = np.arange(len(codes)) - np.repeat(first, np.diff(np.append(first, len(codes))))
    values = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    ends = np.flatnonzero(last)
    values -= np.where(codes[ends] & 0x10, 1 << (5 * (place[ends] + 1)), 0)
    # From the fourth run on, each is stored as the difference to the run two before it.
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs
