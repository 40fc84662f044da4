"""Copies of a clip in several splits of a data set, found by their pixels' files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from data_construction.problems import Problem
from data_construction.readers import Dataset
from data_construction.readers.frame_files import place_of
from rollout.errors import DataError
from rollout.video import split_frame_path

SAMPLED_BYTES = 1 << 16


def twins(dataset: Dataset, seen: dict[str, tuple[str, str]]) -> Iterator[Problem]:
    """Clips with the same first and middle frame files as one of another split, whatever they are called.

    Of a video, its file is compared: size, first and last bytes. ``seen`` holds the splits before this one.
    """
    for entry in dataset.index.values():
        if not entry.frames:
            continue
        try:
            paths = dataset.frame_paths(entry)
            digest = _print(paths[0], paths[len(paths) // 2])
        except (OSError, DataError):
            continue  # A missing frame is reported where frames are checked.
        split, clip = seen.setdefault(digest, (dataset.split, entry.name))
        if split != dataset.split and clip != entry.name:
            same = "first and middle frame" if split_frame_path(paths[0]) is None else "video (size, beginning and end)"
            what = f"has the same {same} as clip {clip} of split {split}"
            remedy = "compare the others; leave the clip in one split"
            yield Problem("same_frames", str(place_of(paths[0])), what, entry.name, remedy=remedy)


def _print(first: Path, middle: Path) -> str:
    inside = split_frame_path(first)
    if inside is None:
        return hashlib.sha256(first.read_bytes() + middle.read_bytes()).hexdigest()
    with open(inside[0], "rb") as file:
        head = file.read(SAMPLED_BYTES)
        size = file.seek(0, 2)
        file.seek(max(0, size - SAMPLED_BYTES))
        return hashlib.sha256(head + file.read() + str(size).encode()).hexdigest()
