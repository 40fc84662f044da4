"""A file that is there under another spelling of its name than the annotations have.

macOS takes accented letters apart (NFD), cameras write ``.JPG``, some lists give names with their suffix, and tools
that cut up a video count its frames with or without leading zeros.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal
from unicodedata import normalize

from data_construction.readers.listing import IMAGE_SUFFIXES, listed
from rollout.video import VIDEO_SUFFIXES, split_frame_path

Form = Literal["NFC", "NFD"]
FORMS: tuple[Form | None, ...] = (None, "NFC", "NFD")
Respell = Callable[[Path], Path]


def respelling(root: Path, path: Path) -> Respell | None:
    """What makes a path below ``root``, of an image or of a frame of a video, the one that is on disk; None if nothing
    does. The same holds for the other frames of its clip."""
    inside = split_frame_path(path)
    suffixes = IMAGE_SUFFIXES if inside is None else VIDEO_SUFFIXES
    for form in FORMS:
        for suffix in (None, "", *suffixes, *(s.upper() for s in suffixes)):
            change = partial(_respelled, str(root), form, suffix)
            if Path(str(change(path)).rpartition("#")[0] if inside else change(path)).is_file():
                return change
    return None


def _respelled(root: str, form: Form | None, suffix: str | None, path: Path) -> Path:
    """``suffix`` None: as it is; "": without it, as the name before it has one already."""
    inside = split_frame_path(path)
    file, mark = (str(path), "") if inside is None else (inside[0], f"#{inside[1]}")
    place = os.path.relpath(file, root)
    place = normalize(form, place) if form else place
    if suffix is not None:
        place = os.path.splitext(place)[0] + suffix
    return Path(root, place + mark)


def spelled_folder(path: Path) -> Path:
    """The folder as it is written on disk: in any form of its accented letters."""
    if str(path).isascii() or path.is_dir():
        return path
    return next((p for form in FORMS if form and (p := Path(normalize(form, str(path)))).is_dir()), path)


def mask_file(path: Path) -> Path | None:
    """The PNG at ``path``, or the one in its folder that means the same frame: ``7.PNG``, ``00007.png``,
    ``7.jpg.png``; None if there is none."""
    if path.is_file():
        return path
    folder = spelled_folder(path.parent)
    try:
        known = _by_stem(folder, folder.stat().st_mtime_ns)
    except OSError:
        return None
    return known.get(_stem(path.name))


@lru_cache(maxsize=8)
def _by_stem(folder: Path, _mtime_ns: int) -> dict[str, Path]:
    out: dict[str, Path] = {}
    for file in listed(folder):
        if file.suffix.lower() == ".png":
            out.setdefault(_stem(file.name), file)
    return out


def _stem(name: str) -> str:
    """Without suffixes and leading zeros."""
    stem = normalize("NFC", os.path.splitext(name)[0])
    if os.path.splitext(stem)[1].lower() in IMAGE_SUFFIXES:
        stem = os.path.splitext(stem)[0]
    return stem.lstrip("0") or "0" if stem.isdecimal() else stem
