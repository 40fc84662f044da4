"""Look for everything that can be wrong in a split before anybody trains on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from data_construction.problems import Problem, Progress, problem_of
from data_construction.readers.annotations import ClipEntry, read_index
from data_construction.readers.frame_files import frame_faults, on_disk
from data_construction.readers.indexed_json import IndexedJson, open_json
from data_construction.readers.masks import rle_pixels, rle_problems
from data_construction.readers.open_split import FrameCheck, OpenSplit
from data_construction.readers.orientation import orientation_problem
from data_construction.readers.timing import rate_problem
from rollout.control_text import control_fault
from rollout.errors import DataError
from rollout.text_files import read_text
from rollout.types import RLE

NO_TARGET = 2


def find_problems(
    dataset: OpenSplit, frames: FrameCheck, progress: Progress | None = None, limit: int | None = None
) -> list[Problem]:
    """Problems in clip order, at most ``limit``: annotation file, ids, masks against frames, frames, other splits."""
    return list(islice(_all_problems(dataset, frames, progress), limit))


def _all_problems(dataset: OpenSplit, frames: FrameCheck, progress: Progress | None) -> Iterator[Problem]:
    yield from shared_clips(dataset)
    yield from _repeated_keys(dataset)
    foreground = _has_foreground(dataset)
    doing = f"checking {dataset.name}/{dataset.split}"
    for done, entry in enumerate(dataset.index.values()):
        if progress is not None:
            progress(done, len(dataset.index), doing)
        yield from entry.problems
        yield from entry.odd.values()
        yield from _control_text(dataset, entry)
        if not entry.frames:
            continue
        yield from _ids(dataset, entry)
        try:
            dataset.frame_paths(entry)
        except DataError as e:
            yield problem_of(e, str(dataset.root), "frame_name", entry.name)
            continue
        if (gone := dataset.absent(entry)) is not None:
            yield gone
            continue
        try:
            size = dataset.size(entry.name)
        except DataError as e:
            size = None  # Without a readable first frame there is no size to compare with.
            yield problem_of(e, str(dataset.root), "unreadable_frame", entry.name)
        if frames != "none":
            yield from _frames(dataset, entry, size, decode=frames == "decode")
        if size is not None and frames == "decode":
            turned = orientation_problem(dataset, entry, dataset.frame_paths(entry), size)
            yield from () if turned is None else (turned,)
        if size is not None:
            yield from _masks(dataset, entry, size)
            if foreground:
                yield from _foreground(dataset, entry)
    if progress is not None:
        progress(len(dataset.index), len(dataset.index), doing)


def _control_text(dataset: OpenSplit, entry: ClipEntry) -> Iterator[Problem]:
    """Expressions and recorded thoughts that a chat, a trainer or the protocol would not read as words."""
    for eid, expression in entry.expressions.items():
        replies = [value for who, value in entry.dialogues.get(eid, ()) if who == "gpt"]
        fault = control_fault(expression.text, replies)
        if fault is not None:
            item = f"expression {eid}"
            yield Problem("control_text", _annotation_file(dataset), fault, entry.name, item=item, remedy="edit it")


def shared_clips(dataset: OpenSplit) -> Iterator[Problem]:
    """Clips that another split of the same data set, as far as it is there, holds as well; none between sources."""
    for other in () if dataset.stanza.splits_are_sources else dataset.stanza.splits:
        files = dataset.stanza.split(other, dataset.root)
        if other == dataset.split or files.annotations is None or not files.present(dataset.root):
            continue
        try:
            both = read_index(dataset.root, dataset.stanza, files).keys() & dataset.index.keys()
        except DataError:
            continue  # A split that cannot be opened is reported where it is checked itself.
        for clip in sorted(both):
            what = f"is in split {dataset.split} and in split {other}"
            remedy = "leave it in one of them, or held-out scores mean nothing"
            yield Problem("shared_clip", str(dataset.root / files.annotations), what, clip, remedy=remedy)


def _repeated_keys(dataset: OpenSplit) -> Iterator[Problem]:
    """Clips or ids that stand twice in a file of annotations or masks: a JSON reader silently keeps the last."""
    files = dataset.files
    masks = files.masks if files.mask_format == "rle_dict" else None
    for name in dict.fromkeys((files.annotations, masks, files.foreground)):
        path = dataset.root / (name or "")
        if path.suffix != ".json" or not path.is_file():
            continue
        for key in _repeated(path) if name == files.annotations else _repeated_ids(path):
            clip = key if key in dataset.index else ""
            what = f"the key {key!r} stands twice in one mapping; all but the last are lost"
            yield Problem("duplicate_id", str(path), what, clip, remedy="rename one of them")


def _repeated(path: Path) -> list[str]:
    """In any mapping of the file."""
    repeated: dict[str, None] = {}

    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        mapping = dict(found)
        if len(mapping) < len(found):
            repeated.update(dict.fromkeys(k for k, n in Counter(k for k, _ in found).items() if n > 1))
        return mapping

    json.loads(read_text(path), object_pairs_hook=pairs)
    return list(repeated)


def _repeated_ids(path: Path) -> list[str]:
    """In the outermost mapping; a file that cannot be read is reported where its masks are wanted."""
    try:
        found = open_json(path)
        return (found if isinstance(found, IndexedJson) else IndexedJson(path)).repeated()
    except DataError:
        return []


def _annotation_file(dataset: OpenSplit) -> str:
    return str(dataset.root / (dataset.files.annotations or ""))


def _ids(dataset: OpenSplit, entry: ClipEntry) -> Iterator[Problem]:
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
        elif dataset.files.target_required and not expression.anno_ids:
            yield Problem("no_annotation", file, "names no object", entry.name, item=item, remedy="remove it")


def _frames(dataset: OpenSplit, entry: ClipEntry, size: tuple[int, int] | None, decode: bool) -> Iterator[Problem]:
    paths = dataset.frame_paths(entry)
    wrong_rate = rate_problem(paths[0], dataset.files, entry.name) if on_disk(paths[0]) else None
    if wrong_rate is not None:
        yield wrong_rate
    # Without a size of the first frame, that fault is known already.
    yield from frame_faults(paths, entry, size, decode, start=int(size is None))


def _masks(dataset: OpenSplit, entry: ClipEntry, size: tuple[int, int]) -> Iterator[Problem]:
    if dataset.masks is None:
        return
    path = dataset.masks.path
    sound = True
    usable = [e for e in entry.expressions.values() if e.id not in entry.odd]
    for anno_id in dict.fromkeys(a for e in usable for a in e.anno_ids):
        try:
            rles = dataset.masks.read(entry, anno_id, lambda: size)
        except DataError as e:
            sound = False
            yield problem_of(e, str(path), "unusable_masks")  # Without a clip's name: the same for all of the file.
            continue
        misfits = rle_problems(rles, entry.frames, size, path, entry.name, anno_id)
        sound = sound and not misfits
        yield from misfits
        if not any(_covers(rle) for rle in rles):
            item = f"annotation {anno_id}"
            yield Problem("never_visible", str(path), "has no mask in any frame", entry.name, item=item)
    try:
        strays: list[Path] = getattr(dataset.masks, "strays", lambda _: [])(entry)
    except DataError:
        strays = []  # By an annotation id that was reported above.
    for stray in strays:
        yield Problem("stray_mask", str(stray), "belongs to no frame of the clip", entry.name, stray.stem)
    if sound:
        yield from _existence(dataset, entry)


def _foreground(dataset: OpenSplit, entry: ClipEntry) -> Iterator[Problem]:
    """One mask a frame of everything in the foreground."""
    try:
        dataset.foreground(entry.name)
    except DataError as e:
        yield problem_of(e, str(dataset.root / (dataset.files.foreground or "")), "no_foreground")


def _has_foreground(dataset: OpenSplit) -> bool:
    """Whether there is a file of such masks and it means to hold this split: one of its clips, or it is damaged."""
    path = dataset.root / (dataset.files.foreground or "")
    if not path.is_file():
        return False
    try:
        found = open_json(path)
    except DataError:
        return True
    return not isinstance(found, Mapping) or any(clip in found for clip in dataset.index)


def _covers(rle: RLE | None) -> bool:
    """Whether an RLE has any pixel; a damaged one counts, it is reported as damaged."""
    if rle is None:
        return False
    from pycocotools import mask as coco_mask

    if rle_pixels(rle.get("counts")) < 0:
        return True
    counts = rle["counts"]
    return int(coco_mask.area({**rle, "counts": counts.encode() if isinstance(counts, str) else counts})) > 0


def _existence(dataset: OpenSplit, entry: ClipEntry) -> Iterator[Problem]:
    """Existence that the annotation file states, against the masks."""
    for eid, said in entry.existence.items():
        masklets = dataset.masklets(entry.name, entry.expressions[eid].anno_ids)
        if masklets is None:
            continue
        differ = [t for t, (a, b) in enumerate(zip(said, masklets.existence(), strict=True)) if a != b]
        if differ:
            t = differ[0]
            what = f"mask_existence is {said[t]} where the masks say {1 - said[t]}; {len(differ)} frames differ"
            place = (entry.name, f"{entry.frames[t]} ({t})", f"record {eid}")
            yield Problem("existence", _annotation_file(dataset), what, *place, "write it again")
