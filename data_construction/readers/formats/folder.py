"""``generic``: your own clips as folders of images or as video files, with or without expressions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_construction.readers.annotations import ClipEntry, Index, LazyIndex, annotation_format
from data_construction.readers.files import read_json
from data_construction.readers.formats.meta_expressions import parse_video
from data_construction.readers.stanza import SplitFiles, Stanza
from rollout.errors import DataError
from rollout.video import VIDEO_SUFFIXES, video_facts

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@annotation_format("folder")
def parse_folder(root: Path, stanza: Stanza, files: SplitFiles) -> Index:
    """Clips are the folders and video files on disk; frames are images in name order, or the video's frames."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; data set {stanza.name} wants one folder of frames a clip")
    path = root / files.annotations if files.annotations else None
    texts = read_json(path) if path is not None and path.is_file() else {}
    if not isinstance(texts, dict):
        raise DataError(f"{path}: must map clip names to lists of expressions")
    clips: dict[str, Path] = {}
    for place in _clips(root, files):
        clips.setdefault(place.name if place.is_dir() else place.stem, place)
    lost = [name for name in texts if name not in clips]
    if lost:
        raise DataError(f"{path}: clip {lost[0]!r} has expressions but no folder of frames or video under {root}")

    def make(name: str) -> ClipEntry:
        place, body = clips[name], texts.get(name, {})
        frames = _frames(place)
        entry = parse_video(path or place, name, {"frames": frames, "expressions": _rich(body)}, files)
        kept = tuple(p for p in entry.problems if p.code != "no_expressions")
        return replace(entry, problems=kept, video="" if place.is_dir() else place.name)

    return LazyIndex(sorted(clips), make, root)


def _rich(body: Any) -> Any:
    """A clip's texts as the other formats have them; what is neither list nor mapping stays, for the parser to name."""
    if not isinstance(body, (dict, list)):
        return {} if body is None else body
    items = body.items() if isinstance(body, dict) else enumerate(body)
    # An expression that names no annotation means whatever the clip's masks cover.
    return {str(i): {"anno_id": ["any"], **(b if isinstance(b, dict) else {"exp": b})} for i, b in items}


def _frames(place: Path) -> list[str]:
    if place.is_dir():
        return sorted(p.name for p in place.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    return [str(i) for i in range(video_facts(place).num_frames)]


def _clips(root: Path, files: SplitFiles) -> Iterator[Path]:
    """Folders of the first image pattern that has any, then the files of every video pattern."""
    taken = False
    for pattern in files.frames:
        video = pattern.endswith(("{video}", *VIDEO_SUFFIXES))
        if taken and not video:
            continue
        parent = root / pattern.split("{")[0]
        inside = sorted(parent.iterdir()) if parent.is_dir() else []
        wanted = [p for p in inside if (p.suffix.lower() in VIDEO_SUFFIXES if video else _is_clip(p, files))]
        taken = taken or (bool(wanted) and not video)
        yield from wanted


def _is_clip(folder: Path, files: SplitFiles) -> bool:
    if not folder.is_dir() or folder.name == files.masks or folder.name.startswith("."):
        return False
    return any(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.iterdir())
