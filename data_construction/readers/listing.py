"""What is in a folder, as the person who made it sees it: in the order of numbers, without what systems leave there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LITTER = frozenset({"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"})
"""By macOS' archives, a Synology NAS and Windows. Files that begin with a dot (``._name``, ``.DS_Store``) are too."""
_NUMBER = re.compile(r"([0-9]+)")
N = TypeVar("N", str, Path)


def is_litter(name: str) -> bool:
    """Whether a file or folder of that name is no part of a data set."""
    return name.startswith(".") or name.lower() in LITTER


def numbered(name: str) -> list[tuple[int, int, str]]:
    """A key to sort names by: runs of digits count as numbers, so that ``frame_2`` comes before ``frame_10``, and a
    name before those that go on."""
    stem, suffix = os.path.splitext(name)
    stem = stem if suffix.lower() in IMAGE_SUFFIXES else name
    parts = [(1, int(p), "") if n % 2 else (2, 0, p) for n, p in enumerate(_NUMBER.split(stem)) if p]
    return [*parts, (0, 0, name)]


def in_order(names: Iterable[N]) -> list[N]:
    """Sorted by ``numbered``; equal numbers (``1``, ``01``) by their text."""
    return sorted(names, key=lambda n: numbered(str(n)))


def listed(folder: Path) -> Iterator[Path]:
    """Everything in a folder but litter, in order."""
    return iter(in_order(p for p in folder.iterdir() if not is_litter(p.name)))


def image_names(folder: Path) -> list[str]:
    """Names of the images in a folder, in order."""
    return [p.name for p in listed(folder) if p.suffix.lower() in IMAGE_SUFFIXES]
