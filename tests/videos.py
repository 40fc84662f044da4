"""Small videos whose frames say their own index, in every form that devices and tools write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = (48, 64)
"""(height, width)."""
OPTIONS = {"crf": "10", "preset": "veryfast", "bf": "3", "threads": "1"}


def pattern(t: int) -> NDArray[np.uint8]:
    """A frame that says its own index in black and white bars, which no codec blurs away."""
    frame = np.zeros((*SIZE, 3), np.uint8)
    for bit in range(6):
        frame[:, 10 * bit : 10 * bit + 10] = 255 * (t >> bit & 1)
    return frame


def index_in(image: Any) -> int:
    values = np.asarray(image).mean((0, 2))
    return sum(1 << bit for bit in range(6) if values[10 * bit + 2 : 10 * bit + 8].mean() > 127)


def write_video(
    path: Path,
    stamps: Sequence[int],
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    on_packet: Callable[[Any], object] = lambda packet: None,
    picture: Callable[[int], NDArray[np.uint8]] = pattern,
    turned: int = 0,
) -> Path:
    """One frame at each of ``stamps`` (milliseconds). ``on_packet`` may spoil a packet; ``turned`` as PyAV counts."""
    import av

    with av.open(str(path), "w", options=muxer or {}) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(25))
        stream.height, stream.width = picture(0).shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size, stream.codec_context.time_base = 12, Fraction(1, 25 if path.suffix == ".avi" else 1000)
        stream.options = options if options is not None else OPTIONS if codec == "libx264" else {}
        if turned:
            stream.set_display_rotation(turned)
        for n, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(picture(n), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            _mux(container, stream.encode(frame), on_packet)
        _mux(container, stream.encode(None), on_packet)
    return path


def _mux(container: Any, packets: Sequence[Any], on_packet: Callable[[Any], object]) -> None:
    for packet in packets:
        on_packet(packet)
        container.mux(packet)
