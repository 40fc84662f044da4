"""Frames of a video file by exact index: ``clip.mp4#17`` is the eighteenth frame that a player would show.

Pixels are as a player shows them too: turned or mirrored as the file says. Times are the file's own.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import DataError
from rollout.video_file import VideoFacts, VideoFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
OPEN_VIDEOS = 4
"""Containers kept open in a process; each holds a decoder with a few frames."""


def split_frame_path(path: str | os.PathLike[str]) -> tuple[str, int] | None:
    """``("clip.mp4", 17)`` for ``clip.mp4#17``; None for the path of an image."""
    file, mark, index = os.fspath(path).rpartition("#")
    return (file, int(index)) if mark and index.isdigit() and file.lower().endswith(VIDEO_SUFFIXES) else None


def video_facts(file: str | os.PathLike[str]) -> VideoFacts:
    """Number of frames, size and rate. Raises DataError with the file."""
    with _LOCK:
        return _opened(os.fspath(file)).facts


def video_times(file: str | os.PathLike[str]) -> NDArray[np.float64]:
    """(T,) increasing seconds from the first frame to each. Raises DataError with the file."""
    with _LOCK:
        return _opened(os.fspath(file)).seconds


def video_frame(file: str | os.PathLike[str], index: int) -> Image:
    """Frame ``index`` as an RGB image. Raises DataError (file and frame named) if it cannot be decoded."""
    with _LOCK:
        return _opened(os.fspath(file)).frame(index)


_LOCK = threading.RLock()
_OPEN: OrderedDict[tuple[str, int, int], VideoFile] = OrderedDict()
_PARENTS: list[VideoFile] = []


def _forget() -> None:
    """A forked child shares its parent's file positions: it opens its own, and leaves those alone, unclosed."""
    global _LOCK
    _LOCK = threading.RLock()
    _PARENTS.extend(_OPEN.values())
    _OPEN.clear()


os.register_at_fork(after_in_child=_forget)


def _opened(file: str) -> VideoFile:
    """The open video, replaced when the file changes; the least recently used one is closed beyond OPEN_VIDEOS."""
    try:
        stat = Path(file).stat()
    except OSError as e:
        raise DataError(f"{file}: the file does not exist; check the data set's root") from e
    key = (file, stat.st_mtime_ns, stat.st_size)
    if key not in _OPEN:
        _OPEN[key] = VideoFile(file)
        while len(_OPEN) > OPEN_VIDEOS:
            _OPEN.popitem(last=False)[1].close()
    _OPEN.move_to_end(key)
    return _OPEN[key]
