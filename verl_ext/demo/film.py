"""A clip with masks drawn over it, as a film that every browser plays, at the times of its own frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.report.images import decode, outlined, read_thumbnail
from rollout.frames import frame_times
from rollout.types import RLE, Clip

FILM_SIDES, PICTURE_SIDES = (320, 960), (480, 960)
"""Least and most of the longer side, in pixels: a small clip is enlarged, so that outlines stay fine; a large one
shrunk."""
TICKS = 90_000
"""A second."""
ENCODERS = (("libx264", {"preset": "ultrafast", "crf": "20"}), ("libvpx-vp9", {"crf": "30", "b": "0", "cpu-used": "6"}))
COLOURS = (
    (255, 45, 145),
    (0, 165, 255),
    (255, 176, 0),
    (0, 190, 140),
    (166, 96, 255),
    (255, 94, 58),
    (0, 210, 211),
    (205, 220, 57),
)
"""One a sentence; neighbours are told apart also by who takes red for green."""

Masks = Sequence[RLE | None]


def side_of(clip: Clip, sides: tuple[int, int]) -> int:
    return min(max(sides[0], clip.height, clip.width), sides[1])


def drawn_frame(clip: Clip, frame: int, masks: Sequence[RLE | None], side: int) -> NDArray[np.uint8]:
    """(h, w, 3) uint8, its longer side ``side``: each mask outlined in its colour, what is in none of them dim.

    Raises DataError for a frame or a mask that cannot be read.
    """
    where = f"{clip.name}, frame {frame}"
    found = [decode(rle, clip.height, clip.width, where) for rle in masks]
    return outlined(read_thumbnail(clip.frames[frame], side), list(zip(found, COLOURS, strict=False)))


def write_film(path: Path, clip: Clip, tracks: Sequence[Masks]) -> None:
    """``tracks``: (T,) masks of each sentence. Raises DataError as `drawn_frame`."""
    side = side_of(clip, FILM_SIDES)
    pictures = (drawn_frame(clip, t, [track[t] for track in tracks], side) for t in range(clip.num_frames))
    write_pictures(path, pictures, frame_times(clip))


def write_pictures(path: Path, pictures: Iterable[NDArray[np.uint8]], seconds: NDArray[np.float64]) -> None:
    """Frames (h, w, 3) uint8 as mp4, each shown at its time: H.264, or VP9 where FFmpeg was built without that."""
    import av

    name, options = next((n, o) for n, o in ENCODERS if n in av.codecs_available)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream: Any = None
        for picture, at in zip(pictures, seconds, strict=True):
            even = picture[: picture.shape[0] & ~1, : picture.shape[1] & ~1]  # half as many colours as pixels
            if stream is None:
                stream = container.add_stream(name, rate=_rate(seconds), options=dict(options))
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, TICKS)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame.pts, frame.time_base = round(float(at) * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _rate(seconds: NDArray[np.float64]) -> Fraction:
    """The mean one; of a single frame one a second."""
    length = float(seconds[-1] - seconds[0])
    return Fraction(len(seconds) - 1) / Fraction(length).limit_denominator(1000) if length > 0 else Fraction(1)
