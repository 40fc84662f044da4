"""``generic``: your own clips as folders of images or as video files, with or without expressions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry, Index, LazyIndex, annotation_format
from data_construction.readers.files import read_json
from data_construction.readers.formats.meta_expressions import parse_video
from data_construction.readers.listing import image_names, in_order, listed
from data_construction.readers.stanza import SplitFiles, Stanza
from rollout.errors import DataError
from rollout.video import VIDEO_SUFFIXES, video_facts


@annotation_format("folder")
def parse_folder(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """Clips are the folders and video files on disk; frames are images in the order of their numbers, or the video's.

    A clip that has expressions and is not there is a clip that cannot be used. Names are compared as they read: macOS
    writes an accent as a character of its own.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; data set {stanza.name} wants one folder of frames a clip")
    path = root / files.annotations if files.annotations else None
    raw = read_json(path) if path is not None and path.is_file() else {}
    if not isinstance(raw, dict):
        raise DataError(f"{path}: must map clip names to lists of expressions")
    texts = {normalize("NFC", name): body for name, body in raw.items()}
    clips: dict[str, Path] = {}
    for place in _clips(root, files):
        clips.setdefault(normalize("NFC", place.name if place.is_dir() else place.stem), place)

    def make(name: str) -> ClipEntry:
        place, body = clips.get(name), texts.get(name, {})
        frames = [] if place is None else _frames(place)
        entry = parse_video(path or root, name, {"frames": frames, "expressions": _rich(body)}, files)
        kept = tuple(p for p in entry.problems if p.code != "no_expressions")
        if place is None:
            what = f"has expressions but no folder of frames or video under {root}"
            kept = (Problem("missing_frame", str(path), what, name, remedy="get it, or remove it from the file"),)
        return replace(entry, problems=kept, video=place.name if place is not None and place.is_file() else "")

    return LazyIndex(in_order({*clips, *texts}), make, root)


def _rich(body: Any) -> Any:
    """A clip's texts as the other formats have them; what is neither list nor mapping stays, for the parser to name."""
    if not isinstance(body, (dict, list)):
        return {} if body is None else body
    items = body.items() if isinstance(body, dict) else enumerate(body)
    # An expression that names no annotation means whatever the clip's masks cover.
    return {str(i): {"anno_id": ["any"], **(b if isinstance(b, dict) else {"exp": b})} for i, b in items}


def _frames(place: Path) -> list[str]:
    if place.is_dir():
        return image_names(place)
    return [str(i) for i in range(video_facts(place).num_frames)]


def _clips(root: Path, files: SplitFiles) -> Iterator[Path]:
    """Folders of the first image pattern that has any, then the files of every video pattern."""
    taken = False
    for pattern in files.frames:
        video = pattern.endswith(("{video}", *VIDEO_SUFFIXES))
        if taken and not video:
            continue
        parent = root / pattern.split("{")[0]
        inside = list(listed(parent)) if parent.is_dir() else []
        wanted = [p for p in inside if (p.suffix.lower() in VIDEO_SUFFIXES if video else _is_clip(p, files))]
        taken = taken or (bool(wanted) and not video)
        yield from wanted


def _is_clip(folder: Path, files: SplitFiles) -> bool:
    return folder.is_dir() and folder.name != files.masks and bool(image_names(folder))
