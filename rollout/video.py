"""Frames of a video file by exact index: ``clip.mp4#17`` is the eighteenth frame that a player would show.

A frame is found by its time stamp, not by counting from the start, so reading in any order gives the same pixels.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
OPEN_VIDEOS = 4
"""Containers kept open in a process; each holds a decoder with a few frames."""


@dataclass(frozen=True)
class VideoFacts:
    """What the container says. ``height`` and ``width`` in pixels, ``fps`` the average rate or None."""

    num_frames: int
    height: int
    width: int
    fps: float | None


def split_frame_path(path: str | os.PathLike[str]) -> tuple[str, int] | None:
    """``("clip.mp4", 17)`` for ``clip.mp4#17``; None for the path of an image."""
    file, mark, index = os.fspath(path).rpartition("#")
    return (file, int(index)) if mark and index.isdigit() and file.lower().endswith(VIDEO_SUFFIXES) else None


def video_facts(file: str | os.PathLike[str]) -> VideoFacts:
    """Number of frames, size and rate; reads the packets' headers, decodes nothing. Raises DataError with the file."""
    with _LOCK:
        return _opened(os.fspath(file)).facts


def video_frame(file: str | os.PathLike[str], index: int) -> Image:
    """Frame ``index`` as an RGB image. Raises DataError (file and frame named) if it cannot be decoded."""
    with _LOCK:
        return _opened(os.fspath(file)).frame(index)


class _Video:
    """One open container, its frames' time stamps in display order, and where its decoder stands."""

    def __init__(self, file: str) -> None:
        import av

        self.file = file
        try:
            self.container: Any = av.open(file)
            self.stream: Any = self.container.streams.video[0]
            # A damaged frame is an error here; by default the decoder paints over it.
            self.stream.codec_context.options = {"err_detect": "explode", "ec": "0"}
            self.stream.codec_context.thread_count = 1  # Threads would hold more frames, and do not survive a fork.
            packets: list[tuple[Any, bool]] = [
                (p.pts, bool(p.is_keyframe)) for p in self.container.demux(self.stream) if p.size and not p.is_discard
            ]
        except FileNotFoundError as e:
            raise DataError(f"{file}: the file does not exist; check the data set's root") from e
        except (av.FFmpegError, IndexError, OSError, ValueError) as e:
            raise DataError(f"{file}: cannot be read as a video ({e}); restore the file") from e
        if not packets or any(pts is None for pts, _ in packets):
            raise DataError(f"{file}: {len(packets)} frames, not all with time stamps; extract its frames as images")
        self.times: list[int] = sorted(pts for pts, _ in packets)
        self.entries: list[int] = sorted(pts for pts, key in packets if key) or self.times[:1]
        rate = self.stream.average_rate
        context = self.stream.codec_context
        self.facts = VideoFacts(len(self.times), context.height, context.width, float(rate) if rate else None)
        self._frames: Iterator[Any] | None = None
        self._last: int | None = None

    def frame(self, index: int) -> Image:
        import av

        if not 0 <= index < len(self.times):
            raise DataError(f"{self.file}: frame {index} asked for, the video has 0..{len(self.times) - 1}")
        wanted = self.times[index]
        frame = None if self._must_seek(wanted) else self._next_from(wanted)
        key = max(0, bisect_right(self.entries, wanted) - 1)
        # A container may seek by decoding order and end up behind the frame: then from the key frame before, or from 0.
        for start in (wanted, self.entries[max(0, key - 1)], self.times[0]):
            if frame is not None and frame.pts == wanted:
                break
            try:
                self.container.seek(start, stream=self.stream, backward=True, any_frame=False)
            except av.FFmpegError as e:
                raise DataError(f"{self.file}: frame {index} cannot be reached ({e}); restore the file") from e
            self._frames = iter(self.container.decode(self.stream))
            frame = self._next_from(wanted)
        if frame is None or frame.pts != wanted:
            self._frames = None
            raise DataError(f"{self.file}: frame {index} cannot be decoded; restore the file or extract its frames")
        image: Image = frame.to_image()
        return image

    def _next_from(self, wanted: int) -> Any:
        """The decoder's next frame at or after ``wanted``; None if there is none or it is damaged."""
        import av

        try:
            for frame in self._frames or ():
                self._last = frame.pts
                if frame.pts is not None and frame.pts >= wanted:
                    return None if frame.is_corrupt else frame
        except av.FFmpegError:
            self._frames = None  # After a damaged packet the decoder's state says nothing.
        return None

    def _must_seek(self, wanted: int) -> bool:
        """Go on decoding only where no key frame lies between; a seek is then never the shorter way."""
        if self._frames is None or self._last is None or wanted <= self._last:
            return True
        return bisect_right(self.entries, wanted) != bisect_right(self.entries, self._last)

    def close(self) -> None:
        self.container.close()


_LOCK = threading.RLock()
_OPEN: OrderedDict[tuple[str, int, int], _Video] = OrderedDict()
_PARENTS: list[_Video] = []


def _forget() -> None:
    """A forked child shares its parent's file positions: it opens its own, and leaves those alone, unclosed."""
    global _LOCK
    _LOCK = threading.RLock()
    _PARENTS.extend(_OPEN.values())
    _OPEN.clear()


os.register_at_fork(after_in_child=_forget)


def _opened(file: str) -> _Video:
    """The open video, replaced when the file changes; the least recently used one is closed beyond OPEN_VIDEOS."""
    try:
        stat = Path(file).stat()
    except OSError as e:
        raise DataError(f"{file}: the file does not exist; check the data set's root") from e
    key = (file, stat.st_mtime_ns, stat.st_size)
    if key not in _OPEN:
        _OPEN[key] = _Video(file)
        while len(_OPEN) > OPEN_VIDEOS:
            _OPEN.popitem(last=False)[1].close()
    _OPEN.move_to_end(key)
    return _OPEN[key]
