"""Look for everything that can be wrong in a split before anybody trains on it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from data_construction.problems import Problem, Progress, problem_of
from data_construction.readers.annotations import ClipEntry, read_index
from data_construction.readers.masks import rle_problems
from rollout.errors import DataError

if TYPE_CHECKING:
    from data_construction.readers.dataset import Dataset, FrameCheck

NO_TARGET = 2


def find_problems(
    dataset: Dataset, frames: FrameCheck, progress: Progress | None = None, limit: int | None = None
) -> list[Problem]:
    """Problems in clip order, at most ``limit``: annotation file, ids, masks against frames, frames, other splits."""
    return list(islice(_all_problems(dataset, frames, progress), limit))


def _all_problems(dataset: Dataset, frames: FrameCheck, progress: Progress | None) -> Iterator[Problem]:
    yield from shared_clips(dataset)
    for done, entry in enumerate(dataset.index.values()):
        if progress is not None:
            progress(done, len(dataset.index), f"checking {dataset.name}/{dataset.split}")
        yield from entry.problems
        if not entry.frames:
            continue
        yield from _ids(dataset, entry)
        if frames != "none":
            yield from _frames(dataset, entry, decode=frames == "decode")
        yield from _masks(dataset, entry)
    if progress is not None:
        progress(len(dataset.index), len(dataset.index), f"checking {dataset.name}/{dataset.split}")


def shared_clips(dataset: Dataset) -> Iterator[Problem]:
    """Clips that another split of the same data set, as far as it is there, holds as well."""
    for other, files in dataset.stanza.splits.items():
        if other == dataset.split or files.annotations is None or not (dataset.root / files.annotations).is_file():
            continue
        both = read_index(dataset.root, dataset.stanza, files).keys() & dataset.index.keys()
        for clip in sorted(both):
            what = f"is in split {dataset.split} and in split {other}"
            remedy = "leave it in one of them, or held-out scores mean nothing"
            yield Problem("shared_clip", str(dataset.root / files.annotations), what, clip, remedy=remedy)


def _annotation_file(dataset: Dataset) -> str:
    return str(dataset.root / (dataset.files.annotations or ""))


def _ids(dataset: Dataset, entry: ClipEntry) -> Iterator[Problem]:
    file = _annotation_file(dataset)
    seen: set[str] = set()
    for frame in entry.frames:
        if frame in seen:
            yield Problem("duplicate_frame", file, "is listed twice", entry.name, frame)
        seen.add(frame)
    for expression in entry.expressions.values():
        item = f"expression {expression.id}"
        if expression.type_id is not None and expression.type_id not in (0, 1, NO_TARGET):
            yield Problem("type_id", file, f"type_id {expression.type_id} is not 0, 1 or 2", entry.name, item=item)
        if len(set(expression.anno_ids)) != len(expression.anno_ids):
            what = f"names an annotation twice: {list(expression.anno_ids)}"
            yield Problem("duplicate_id", file, what, entry.name, item=item)
        if expression.type_id is not None and (expression.type_id == NO_TARGET) == bool(expression.anno_ids):
            what = f"type_id {expression.type_id} with annotation ids {list(expression.anno_ids)}"
            remedy = "type_id 2 means no target and has none, 0 and 1 have at least one"
            yield Problem("target_type", file, what, entry.name, item=item, remedy=remedy)


def _frames(dataset: Dataset, entry: ClipEntry, decode: bool) -> Iterator[Problem]:
    for frame, path in zip(entry.frames, dataset.frame_paths(entry), strict=True):
        if not path.is_file():
            yield Problem("missing_frame", str(path), "does not exist", entry.name, frame)
        elif decode:
            yield from _decode(path, entry, frame)


def _decode(path: Path, entry: ClipEntry, frame: str) -> Iterator[Problem]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            found = (image.height, image.width)
    except (OSError, SyntaxError, ValueError) as e:
        yield Problem("unreadable_frame", str(path), f"cannot be decoded ({e})", entry.name, frame)
        return
    if entry.height is not None and entry.width is not None and found != (entry.height, entry.width):
        what = f"is {found[0]} x {found[1]} pixels, annotated as {entry.height} x {entry.width} (height x width)"
        yield Problem("frame_size", str(path), what, entry.name, frame)


def _masks(dataset: Dataset, entry: ClipEntry) -> Iterator[Problem]:
    if dataset.masks is None:
        return
    path = dataset.masks.path
    try:
        clip = dataset.clip(entry.name)
    except DataError:
        return  # Without a readable first frame there is no size to compare with; that is reported already.
    for anno_id in dict.fromkeys(a for e in entry.expressions.values() for a in e.anno_ids):
        try:
            rles = dataset.masks.read(entry.name, anno_id, entry.frames)
        except DataError as e:
            yield problem_of(e, str(path), "no_masks")
            continue
        yield from rle_problems(rles, entry.frames, (clip.height, clip.width), path, entry.name, anno_id)
        if not any(rles):
            item = f"annotation {anno_id}"
            yield Problem("never_visible", str(path), "has no mask in any frame", entry.name, item=item)
