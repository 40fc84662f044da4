"""Where a clip's frames lie on disk, by a stanza's patterns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry
from data_construction.readers.spelling import respelling
from data_construction.readers.stanza import SplitFiles
from rollout.errors import DataError
from rollout.video import VIDEO_SUFFIXES, split_frame_path, video_facts, video_frame

LISTED = 4
"""Entries of a folder that are read for each frame that it should hold."""


def frame_paths(root: Path, files: SplitFiles, entry: ClipEntry) -> list[Path]:
    """One path a frame, under the first pattern whose file exists (in any spelling), else whose folder does, else the
    first.

    A frame of a video is ``<video>#<index>``; its index is the frame's name read as a number. Raises DataError (clip
    and frame named) where the frames of a video that is there have other names.
    """
    if not entry.frames:
        return []
    first = [_path(root, p, entry, entry.frames[0]) for p in files.frames]
    best = [n for n, path in enumerate(first) if on_disk(path)]
    if not best:
        for pattern, path in zip(files.frames, first, strict=True):
            if (change := respelling(root, path)) is not None:
                return [change(_path(root, pattern, entry, f)) for f in entry.frames]
    best += [n for n, path in enumerate(first) if split_frame_path(path) is None and path.parent.is_dir()]
    chosen = first[[*best, 0][0]]
    pattern = files.frames[[*best, 0][0]]
    unnumbered = next((f for f in entry.frames if not f.isdecimal()), None)
    if unnumbered is not None and split_frame_path(chosen) is not None and on_disk(chosen):
        remedy = "write its index in the video"
        what = "is a frame of a video, and its name no number"
        raise Problem("frame_name", str(place_of(chosen)), what, entry.name, unnumbered, remedy=remedy).error()
    if "*" in pattern:  # One look into the folder serves all frames.
        pattern = str(chosen).rpartition("#")[0].removeprefix(f"{root}/")
    return [_path(root, pattern, entry, f) for f in entry.frames]


def video_file(root: Path, files: SplitFiles, name: str) -> Path:
    """The video called ``name`` under the first pattern where it exists, else under the first pattern."""
    found = [root / p.format(clip=name, video=name, stem=Path(name).stem, frame="", source="") for p in files.frames]
    return next((p for p in found if p.is_file()), found[0])


def _path(root: Path, pattern: str, entry: ClipEntry, frame: str) -> Path:
    stem = Path(entry.video).stem
    path = root / pattern.format(clip=entry.name, frame=frame, video=entry.video, stem=stem, source=entry.source)
    if "*" in path.name:
        path = next(iter(sorted(path.parent.glob(path.name))), path)
    if path.name.lower().endswith(VIDEO_SUFFIXES):
        return path.with_name(f"{path.name}#{int(frame) if frame.isdecimal() else 0}")
    return path


def place_of(path: Path) -> Path:
    """The folder of an image, the file of a video's frame."""
    inside = split_frame_path(path)
    return path.parent if inside is None else Path(inside[0])


def on_disk(path: Path) -> bool:
    """Whether a frame's file exists, or the video that holds it."""
    inside = split_frame_path(path)
    return path.is_file() if inside is None else Path(inside[0]).is_file()


def frame_faults(
    paths: Sequence[Path], entry: ClipEntry, size: tuple[int, int] | None, decode: bool, start: int = 0
) -> Iterator[Problem]:
    """What is wrong with a clip's frames from ``start`` on, see ``check_frame``; images are only looked for where
    ``decode`` is false, by their folder's list instead of one by one."""
    pairs = list(zip(entry.frames, paths, strict=True))[start:]
    if pairs and not decode and split_frame_path(pairs[0][1]) is None:  # One pattern serves all frames of a clip.
        gone = absent(paths)
        pairs = [(frame, path) for frame, path in pairs if path in gone] if gone else []
    for frame, path in pairs:
        problem = check_frame(path, size, entry.name, frame, decode)
        if problem is not None:
            yield problem


def absent(paths: Sequence[Path]) -> set[Path]:
    """The images among ``paths`` that are not there."""
    folders: dict[str, list[tuple[str, Path]]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        folders.setdefault(folder, []).append((name, path))
    out: set[Path] = set()
    for folder, wanted in folders.items():
        known = _some_files(folder, LISTED * len(wanted)) if len(wanted) > 1 else set()
        out |= {path for name, path in wanted if name not in known and not path.is_file()}
    return out


def _some_files(folder: str, most: int) -> set[str]:
    """Names of files in a folder. Not all where there are many: it holds more than one clip's frames then."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in islice(entries, most) if entry.is_file()}
    except OSError:
        return set()


def frame_size(path: Path, clip: str, frame: str) -> tuple[int, int]:
    """(height, width) by the file's header. Raises DataError naming clip and frame."""
    inside = split_frame_path(path)
    try:
        if inside is not None:
            facts = video_facts(inside[0])
            return facts.height, facts.width
        from PIL import Image

        with Image.open(path) as image:
            return image.height, image.width
    except DataError as e:
        raise Problem("unreadable_frame", str(path), _short(e, path), clip, frame).error() from e
    except OSError as e:
        code = "unreadable_frame" if path.exists() else "missing_frame"
        what = str(e) if path.exists() else "does not exist"
        raise Problem(code, str(path), what, clip, frame).error() from e


def check_frame(path: Path, size: tuple[int, int] | None, clip: str, frame: str, decode: bool) -> Problem | None:
    """What is wrong with a frame: missing, not decodable, or not of ``size`` (height, width)."""
    inside = split_frame_path(path)
    if not on_disk(path):
        return Problem("missing_frame", str(path), "does not exist", clip, frame)
    try:
        if inside is not None:
            facts = video_facts(inside[0])
            if inside[1] >= facts.num_frames:
                what = f"does not exist, the video has {facts.num_frames} frames"
                return Problem("missing_frame", str(path), what, clip, frame)
            found = (facts.height, facts.width)
            if decode:
                image = video_frame(*inside)
                found = (image.height, image.width)
        elif decode:
            from PIL import Image

            with Image.open(path) as file:
                file.load()
                found = (file.height, file.width)
        else:
            return None
    except (DataError, OSError, SyntaxError, ValueError) as e:
        return Problem("unreadable_frame", str(path), f"cannot be decoded ({_short(e, path)})", clip, frame)
    if size is not None and found != size:
        what = f"is {found[0]} x {found[1]} pixels, annotated as {size[0]} x {size[1]} (height x width)"
        return Problem("frame_size", str(path), what, clip, frame)
    return None


def _short(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{str(path).rpartition('#')[0] or path}: ")
