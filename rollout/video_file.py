"""One open video. A frame is found by its time stamp, so reading in any order gives the same pixels; where a file's
stamps are not to be trusted, its frames are counted instead.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rollout.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

INTERLEAVED = "avi"
"""A format that stores no presentation times; what the demuxer says instead is a guess unless all frames are whole."""
VP8 = "vp8"


@dataclass(frozen=True)
class VideoFacts:
    """``height`` and ``width`` in pixels as shown, ``fps`` the average rate or None."""

    num_frames: int
    height: int
    width: int
    fps: float | None


@dataclass(frozen=True)
class Packet:
    """A coded frame, in the file's order."""

    pts: int | None
    key: bool
    cut: bool
    """Decoded for the sake of others, never shown: an edit list leaves it out."""


class VideoFile:
    """An open container, its frames' times in display order, and where its decoder stands.

    Raises DataError (file named) for what is no video, or has stamps that cannot be trusted and frames that cannot be
    counted either.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        packets = self._open()
        self._frames: Iterator[Any] | None = None
        self._at = -1
        """Index of the decoder's latest frame, where frames are counted; else its time stamp."""
        self.counted = doubtful(packets, self.container.format.name, self.stream.codec_context.has_b_frames)
        stamps = self._count() if self.counted else [p.pts for p in packets if not p.cut]
        self.times = sorted(t for t in stamps if t is not None)
        """Stamps of the frames; where they are counted, as far as they have any."""
        self.num_frames = len(stamps)
        self.entries = sorted(p.pts for p in packets if p.key and p.pts is not None) or self.times[:1]
        rate, context = self.stream.average_rate, self.stream.codec_context
        fps = float(rate) if rate else None
        self.seconds = self._seconds(fps)
        self.turn = self._orientation()
        size = (context.width, context.height) if self.turn[0] else (context.height, context.width)
        self.facts = VideoFacts(self.num_frames, *size, fps)

    def _open(self) -> list[Packet]:
        import av

        try:
            self.container: Any = av.open(self.file)
            if not self.container.streams.video and self.container.streams.audio:
                raise DataError(f"{self.file}: holds no video, only sound; give the file that has the frames")
            self.stream: Any = self.container.streams.video[0]
            # A damaged frame is an error here; by default the decoder paints over it. Its painting stays allowed (ec):
            # without, it calls every frame damaged that comes in several slices, and what it paints says so anyway.
            self.stream.codec_context.options = {"err_detect": "explode"}
            self.stream.codec_context.thread_count = 1  # Threads would hold more frames, and do not survive a fork.
            hidden = _vp8_hidden if self.stream.codec_context.name == VP8 else _never
            coded = [p for p in self.container.demux(self.stream) if p.size and not hidden(p)]
            packets = [Packet(p.pts, bool(p.is_keyframe), bool(p.is_discard)) for p in coded]
        except FileNotFoundError as e:
            raise DataError(f"{self.file}: the file does not exist; check the data set's root") from e
        except (av.FFmpegError, IndexError, OSError, ValueError) as e:
            raise DataError(f"{self.file}: cannot be read as a video ({e}); restore the file") from e
        if all(p.cut for p in packets):
            raise DataError(f"{self.file}: holds no frames; restore the file")
        return packets

    def _count(self) -> list[int | None]:
        """Time stamps of the frames that are decoded, in the decoder's order, which is that of display."""
        import av

        try:
            self._rewind()
            stamps = [frame.pts for frame in self._frames or () if not frame.is_corrupt]
        except av.FFmpegError as e:
            what = f"its time stamps are not to be trusted, and its frames cannot all be decoded ({e})"
            raise DataError(f"{self.file}: {what}; restore the file, or extract its frames as images") from e
        finally:
            self._frames = None
        if not stamps:
            raise DataError(f"{self.file}: no frame can be decoded; restore the file")
        return stamps

    def _seconds(self, fps: float | None) -> NDArray[np.float64]:
        """By the stamps, or by the rate where they are not one a frame."""
        if len(set(self.times)) < self.num_frames:
            return np.arange(self.num_frames) / (fps or 1.0)
        base = self.stream.time_base
        return (np.array(self.times, np.int64) - self.times[0]) * base.numerator / base.denominator  # type: ignore[no-any-return]

    def _orientation(self) -> tuple[bool, bool, bool]:
        """(swap the axes, then mirror left-right, then upside down) that the display matrix asks for.

        x' = a x + c y, y' = b x + d y. It comes with the first frame; where that is damaged, reading it says so.
        """
        import av

        try:
            self._rewind()
            matrix = next(self._frames or iter(())).side_data.get("DISPLAYMATRIX")
        except (av.FFmpegError, StopIteration):
            return False, False, False
        finally:
            self._frames = None
        if matrix is None:
            return False, False, False
        a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
        swap = abs(a) + abs(d) < abs(b) + abs(c)
        large, small = ((b, c), (a, d)) if swap else ((a, d), (b, c))
        if max(map(abs, small)) > 0.01 * min(map(abs, large)):
            what = "is to be shown turned by an angle that is no multiple of 90 degrees"
            raise DataError(f"{self.file}: {what}; extract its frames as images")
        return (True, c < 0, b < 0) if swap else (False, a < 0, d < 0)

    def frame(self, index: int) -> Image:
        """Frame ``index`` as an RGB image. Raises DataError (file and frame named) if it cannot be decoded."""
        from PIL.Image import Transpose

        if not 0 <= index < self.num_frames:
            raise DataError(f"{self.file}: frame {index} asked for, the video has 0..{self.num_frames - 1}")
        frame = self._counted(index) if self.counted else self._stamped(index)
        if frame is None:
            self._frames = None
            raise DataError(f"{self.file}: frame {index} cannot be decoded; restore the file or extract its frames")
        image: Image = frame.to_image()
        ways = (Transpose.TRANSPOSE, Transpose.FLIP_LEFT_RIGHT, Transpose.FLIP_TOP_BOTTOM)
        for way, wanted in zip(ways, self.turn, strict=True):
            image = image.transpose(way) if wanted else image
        return image

    def _counted(self, index: int) -> Any:
        """Decoded from the start, or on from the latest frame; None if that fails."""
        if self._frames is None or index <= self._at:
            self._rewind()
            self._at = -1
        return self._next_from(index, lambda _: self._at + 1)

    def _stamped(self, index: int) -> Any:
        """By its time stamp; None if the decoder does not come by it."""
        import av

        wanted = self.times[index]
        frame = None if self._must_seek(wanted) else self._next_from(wanted, _stamp)
        key = max(0, bisect_right(self.entries, wanted) - 1)
        # A container may seek by decoding order and end up behind the frame: then from the key frame before, or from 0.
        for start in (wanted, self.entries[max(0, key - 1)], self.times[0]):
            if frame is not None and frame.pts == wanted:
                break
            try:
                self._rewind(start)
            except av.FFmpegError as e:
                raise DataError(f"{self.file}: frame {index} cannot be reached ({e}); restore the file") from e
            frame = self._next_from(wanted, _stamp)
        return frame if frame is not None and frame.pts == wanted else None

    def _rewind(self, start: int | None = None) -> None:
        """Decode on from the key frame at or before a time stamp, or from the very beginning."""
        first = min(self.stream.start_time or 0, 0) if start is None else start
        self.container.seek(first, stream=self.stream, backward=True, any_frame=False)
        self._frames = iter(self.container.decode(self.stream))

    def _next_from(self, wanted: int, place: Any) -> Any:
        """The decoder's next frame whose place is at or after ``wanted``; None if there is none or it is damaged."""
        import av

        try:
            for frame in self._frames or ():
                at = place(frame)
                self._at = self._at if at is None else at
                if at is not None and at >= wanted:
                    return None if frame.is_corrupt else frame
        except av.FFmpegError:
            self._frames = None  # After a damaged packet the decoder's state says nothing.
        return None

    def _must_seek(self, wanted: int) -> bool:
        """Go on decoding only where no key frame lies between; a seek is then never the shorter way."""
        if self._frames is None or wanted <= self._at:
            return True
        return bisect_right(self.entries, wanted) != bisect_right(self.entries, self._at)

    def close(self) -> None:
        self.container.close()


def doubtful(packets: list[Packet], container: str, reorders: bool) -> bool:
    """Whether presentation times may be wrong, by the packets' headers alone.

    So are stamps that are missing or stand twice, a stream that reorders its frames and whose stamps do not show it
    (they are then in the order of decoding), one that does not begin with a key frame, and any AVI of other than whole
    frames.
    """
    stamps = [p.pts for p in packets if not p.cut]
    if None in stamps or len(set(stamps)) < len(stamps) or not packets[0].key:
        return True
    if container == INTERLEAVED and not all(p.key for p in packets):
        return True
    return reorders and len(packets) > 2 and stamps == sorted(stamps)  # type: ignore[type-var]


def _stamp(frame: Any) -> int | None:
    return frame.pts  # type: ignore[no-any-return]


def _never(packet: Any) -> bool:
    return False


def _vp8_hidden(packet: Any) -> bool:
    """A frame that only others refer to: bit 4 of VP8's frame header says whether one is shown."""
    return not bytes(packet)[0] >> 4 & 1
