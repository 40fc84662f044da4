"""Which layouts can be written. A new one is a file here with a function under ``@layout``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data_construction.atomic import new_folder
from data_construction.layouts.clips import SPLITS, DrawnClip, draw_clips
from rollout.errors import DataError
from rollout.plugins import import_files_of

Clips = dict[str, list[DrawnClip]]
Writer = Callable[[Path, Clips], None]
"""Writes the clips of every split under a folder."""
WRITERS: dict[str, Writer] = {}


def layout(*names: str) -> Callable[[Writer], Writer]:
    """Register a writer under its data sets' names."""

    def register(writer: Writer) -> Writer:
        WRITERS.update(dict.fromkeys(names, writer))
        return writer

    return register


def layout_names() -> list[str]:
    """Data sets that ``write_layout`` knows."""
    import_files_of("data_construction.layouts")
    return sorted(WRITERS)


def write_layout(dataset: str, root: Path, *, seed: int = 0, clips: int = 3) -> dict[str, int]:
    """Write ``clips`` clips a split of ``dataset`` in its published layout; returns split -> number of clips.

    The same arguments give the same annotations, masks and images. The folder is whole or not there.
    Raises DataError for an unknown name, or if ``root`` exists and is not empty.
    """
    if dataset not in layout_names():
        raise DataError(f"no layout called {dataset!r}; known: {', '.join(layout_names())}")
    if clips < 1:
        raise DataError(f"clips = {clips}: wants 1 or more a split")
    drawn = {split: draw_clips(dataset, split, seed=seed, clips=clips) for split in SPLITS[dataset]}
    with new_folder(Path(root)) as folder:
        WRITERS[dataset](folder, drawn)
    return {split: len(found) for split, found in drawn.items()}
