"""ViCaS: one JSON a video with prompts and masks; and Ref-SAV's training part, one JSON of masks a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_construction.problems import Problem
from data_construction.readers.annotations import (
    ClipEntry,
    Index,
    LazyIndex,
    annotation_format,
    annotation_ids,
    annotation_path,
)
from data_construction.readers.files import read_json
from data_construction.readers.listing import in_order, listed
from data_construction.readers.stanza import SplitFiles, Stanza
from rollout.errors import DataError
from rollout.types import Expression

SAV_STEP = 4
"""SA-V annotates every fourth frame: 6 a second of 24."""


@annotation_format("vicas")
def parse_vicas(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """A folder of ``<video id>.json``; ``select`` is the list of the split's ids. Clips are six-digit ids."""
    folder = annotation_path(root, stanza, files)
    if not folder.is_dir():
        raise DataError(f"{folder}: missing; check the data set's root folder")
    found = {int(p.stem): p for p in listed(folder) if p.suffix == ".json" and p.stem.isdecimal()}
    path = root / (files.select or "")
    ids = read_json(path) if files.select else sorted(found)
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        raise DataError(f"{path}: must be a list of video ids")
    clips = {f"{i:06d}": found.get(i, folder / f"{i:06d}.json") for i in ids}
    return LazyIndex(clips, lambda name: _vicas_clip(clips[name], name), folder)


def _vicas_clip(path: Path, name: str) -> ClipEntry:
    raw = read_json(path)
    try:
        shown_frames = {Path(s["filename"]).stem: s for s in raw["segmentations"]}
        frames = tuple(in_order(shown_frames))
        height, width = (int(n) for n in raw["image_size"])
        masks: dict[str, list[Any]] = {str(t): [None] * len(frames) for t in raw["all_track_ids"]}
        for t, frame in enumerate(frames):
            shown = shown_frames[frame]
            for track, rle in zip(shown["track_ids"], shown["mask_rles"], strict=True):
                masks[str(track)][t] = rle
        annotated = tuple(t for t, s in enumerate(raw["segmentations"]) if s.get("is_gt", True))
        expressions = {
            str(n): Expression(str(n), str(r["prompt"]), annotation_ids(r["track_ids"]))
            for n, r in enumerate(raw["object_referrals"])
        }
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        what = f"is not a ViCaS annotation ({type(e).__name__}: {e})"
        raise Problem("malformed_clip", str(path), what, name, remedy="get the file again").error() from e
    problems = []
    if not frames:
        problems.append(Problem("no_frames", str(path), "has no segmentations", name))
    for eid in [e.id for e in expressions.values() if not e.text.strip()]:
        item = f"expression {eid}"
        problems.append(Problem("malformed_expression", str(path), "has an empty prompt", name, item=item))
        del expressions[eid]
    if not expressions and not problems:
        problems.append(Problem("no_expressions", str(path), "has no object_referrals", name, remedy="remove it"))
    video = str(raw.get("filename", ""))
    return ClipEntry(
        name, frames, expressions, height, width, tuple(problems), video=video, masks=masks, annotated=annotated
    )


@annotation_format("sav")
def parse_sav(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """``{key: {"video_path", "anno_path", "objects": {id: {"formated": text}}}}``; masks in the JSON at anno_path."""
    path = annotation_path(root, stanza, files)
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise DataError(f"{path}: must map videos to their paths and objects")
    folder = root / (files.masks or "")
    return LazyIndex(raw, lambda name: _sav_clip(path, folder, name, raw[name]), path)


def _sav_clip(path: Path, folder: Path, name: str, raw: Any) -> ClipEntry:
    try:
        video, masks = _without_repeat(raw["video_path"]), folder / _without_repeat(raw["anno_path"])
        objects = {str(k): str(v["formated"]) for k, v in raw["objects"].items()}
    except (KeyError, TypeError, AttributeError) as e:
        what = f"is not a Ref-SAV item ({type(e).__name__}: {e})"
        raise Problem("malformed_clip", str(path), what, name).error() from e
    content = read_json(masks)
    masklet = content.get("masklet") if isinstance(content, dict) else None
    if not isinstance(masklet, list) or not masklet:
        raise Problem("no_masks", str(masks), "has no 'masklet'", name).error()
    columns: dict[str, list[Any]] = {k: [_visible(row, k) for row in masklet] for k in objects}
    expressions = {k: Expression(k, text, (k,)) for k, text in objects.items()}
    problems = () if objects else (Problem("no_expressions", str(path), "has no objects", name),)
    frames = tuple(str(SAV_STEP * t) for t in range(len(masklet)))
    return ClipEntry(name, frames, expressions, problems=problems, video=video, masks=columns)


def _visible(row: Any, key: str) -> Any:
    """An object's RLE in one frame; None beyond the row's end, which the mask check then reports as never visible."""
    return row[int(key)] if isinstance(row, list) and key.isdigit() and int(key) < len(row) else None


def _without_repeat(path: str) -> str:
    """``sav_000/sav_train/sav_000/x`` as ``sav_train/sav_000/x``: the released file repeats the folder."""
    parts = Path(path).parts
    for n in range(1, len(parts) - 1):
        if parts[n] == "sav_train" and parts[n - 1] == parts[n + 1]:
            return str(Path(*parts[: n - 1], *parts[n:]))
    return path
