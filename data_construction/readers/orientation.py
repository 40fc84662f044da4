"""Photos that say they are to be shown turned (EXIF orientation): masks may have been drawn on them either way.

Pixels are read as they are stored, as the data sets' own loaders do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry
from data_construction.readers.open_split import OpenSplit
from rollout.errors import DataError
from rollout.video import split_frame_path

TAG = 0x0112
UPRIGHT = 1
SIDEWAYS = (5, 6, 7, 8)
"""Height and width change places."""
REMEDY = (
    "turn the pixels and drop the tag (exiftran -ai, or mogrify -auto-orient), or drop the tag alone if the masks fit "
    "the pixels as they are stored"
)


def orientation_problem(
    dataset: OpenSplit, entry: ClipEntry, paths: Sequence[Path], size: tuple[int, int]
) -> Problem | None:
    """For a clip with such photos, unless the masks' size (height, width) shows that they were drawn as stored."""
    turned = [(frame, path, tag) for frame, path in zip(entry.frames, paths, strict=True) if (tag := tag_of(path))]
    if not turned:
        return None
    frame, path, tag = turned[0]
    told = all(t in SIDEWAYS for _, _, t in turned) and size[0] != size[1]
    drawn = _mask_sizes(dataset, entry, size) if told else set()
    if drawn == {size}:
        return None
    more = f", so are {len(turned) - 1} more frames" if turned[1:] else ""
    what = f"is to be shown turned or mirrored (EXIF orientation {tag}){more}; "
    if drawn == {size[::-1]}:
        what += "the masks have the size that it is shown in, and pixels are read as stored"
    else:
        what += "pixels are read as stored, and masks may have been drawn on the picture as shown"
    return Problem("orientation", str(path), what, entry.name, frame, remedy=REMEDY)


def tag_of(path: Path) -> int:
    """The orientation of an image, 0 where there is none to heed. A file that cannot be read has none."""
    if split_frame_path(path) is not None:
        return 0
    from PIL import Image

    try:
        with Image.open(path) as image:
            tag = image.getexif().get(TAG, UPRIGHT)
    except (OSError, SyntaxError, ValueError):
        return 0
    return int(tag) if tag in range(UPRIGHT + 1, 9) else 0


def _mask_sizes(dataset: OpenSplit, entry: ClipEntry, size: tuple[int, int]) -> set[tuple[int, ...]]:
    """(height, width) of the clip's masks; none where there are none, or they are polygons and have no size."""
    if dataset.masks is None or not getattr(dataset.masks, "sized", True):
        return set()
    found: set[tuple[int, ...]] = set()
    for anno_id in dict.fromkeys(a for e in entry.expressions.values() for a in e.anno_ids):
        try:
            rles = dataset.masks.read(entry, anno_id, lambda: size)
        except DataError:
            continue
        found |= {tuple(r["size"]) for r in rles if isinstance(r, dict) and "size" in r}
    return found
