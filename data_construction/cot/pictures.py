"""Frames as an endpoint takes them: sized, with boxes drawn where wanted, as JPEG data URLs.

Reading goes through OpenCV where that is safe: it decodes several times faster than Pillow, outside Python's lock, and
straight to a smaller size where a smaller one is wanted. Whatever looks odd goes through ``rollout.load_frame``.
"""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rollout.errors import DataError
from rollout.frames import UNIT_PIXELS, load_frame
from rollout.types import Clip

RED_BGR = (0, 0, 255)
JPEG_SUFFIXES = (".jpg", ".jpeg")
REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
JPEG_END = b"\xff\xd9"
STORE_BYTES = 96 * 2**20
Box = Sequence[float]
"""x1, y1, x2, y2 in the clip's pixels."""


@dataclass(frozen=True)
class Picture:
    """An encoded frame."""

    url: str
    height: int
    width: int

    def part(self) -> dict[str, Any]:
        """As a part of a message's content."""
        return {"type": "image_url", "image_url": {"url": self.url}}

    @property
    def tokens(self) -> int:
        """Rough: what a model with 28-pixel cells makes of it."""
        return image_tokens(self.height, self.width)


def image_tokens(height: int, width: int) -> int:
    return height * width // UNIT_PIXELS + 2


class FrameStore:
    """Frames as they were last sized, up to ``limit`` bytes: a clip's expressions show many of the same ones.

    For use by several threads. Arrays that it returns are not to be written to.
    """

    def __init__(self, limit: int = STORE_BYTES) -> None:
        self._limit, self._held = limit, 0
        self._frames: OrderedDict[tuple[str, int, int], NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, clip: Clip, index: int, height: int, width: int) -> NDArray[np.uint8]:
        """(height, width, 3) BGR. Raises DataError as ``read_bgr``."""
        key = (clip.frames[index], height, width)
        with self._lock:
            if key in self._frames:
                self._frames.move_to_end(key)
                return self._frames[key]
        image = _resize(read_bgr(clip, index, (height, width)), height, width)
        with self._lock:
            if key not in self._frames:
                self._frames[key] = image
                self._held += image.nbytes
            while self._held > self._limit:
                self._held -= self._frames.popitem(last=False)[1].nbytes
        return image


def picture(
    frames: FrameStore, clip: Clip, index: int, height: int, width: int, boxes: Sequence[Box] = (), quality: int = 90
) -> Picture:
    """Frame ``index`` at height x width pixels, with red rectangles around ``boxes``.

    Raises DataError naming clip, frame and file if it cannot be read or has another size than the clip.
    """
    image = frames.get(clip, index, height, width)
    if boxes:
        image = image.copy()
    thick = max(2, round(min(height, width) / 200))
    for x1, y1, x2, y2 in boxes:
        across, down = width / clip.width, height / clip.height
        corners = (round(x1 * across), round(y1 * down)), (round(x2 * across), round(y2 * down))
        cv2.rectangle(image, *corners, RED_BGR, thick)
    _, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return Picture("data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii"), height, width)


def read_bgr(clip: Clip, index: int, enough: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) BGR, at the clip's size or at a half, quarter or eighth that is no smaller than ``enough`` (H, W)."""
    path = Path(clip.frames[index])
    if path.suffix.lower() in JPEG_SUFFIXES:
        try:
            data = path.read_bytes()
        except OSError as e:
            raise DataError(f"clip {clip.name}, frame {index}, file {path}: cannot be read ({e.strerror})") from e
        # OpenCV fills the missing rest of a cut file with grey and says nothing.
        if data.endswith(JPEG_END):
            shrink, flag = _reduction(clip, enough)
            flag |= cv2.IMREAD_IGNORE_ORIENTATION  # Masks were drawn on the frame as it is stored.
            image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flag)
            if image is not None and image.shape[:2] == (-(-clip.height // shrink), -(-clip.width // shrink)):
                return image  # type: ignore[return-value]
    return np.ascontiguousarray(np.asarray(load_frame(clip, index))[..., ::-1])


def _reduction(clip: Clip, enough: tuple[int, int]) -> tuple[int, int]:
    """(divisor, OpenCV flag); the divisor leaves at least ``enough`` pixels each way."""
    for shrink, flag in REDUCED:
        if clip.height // shrink >= enough[0] and clip.width // shrink >= enough[1]:
            return shrink, flag
    return 1, cv2.IMREAD_COLOR


def _resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    if image.shape[0] >= 2 * height and image.shape[1] >= 2 * width:
        how = cv2.INTER_AREA
    else:  # Less than a half leaves little to alias, and a fractional area filter takes five times as long.
        how = cv2.INTER_LINEAR if image.shape[0] >= height else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=how)  # type: ignore[return-value]
