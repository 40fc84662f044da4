"""Frames as small JPEG pictures inside the page, masks drawn over them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rewards.metrics.packing import runs
from rollout.errors import DataError
from rollout.types import RLE
from rollout.video import split_frame_path, video_frame

GT_COLOUR = (0, 190, 140)
PRED_COLOUR = (255, 45, 145)
DIM, GREY = 0.6, 0.45
"""Outside the mask: brightness, and how far colours go towards grey."""
_DIMMED = DIM * (GREY / 3 * np.ones((3, 3)) + (1 - GREY) * np.eye(3))
_RIM = np.array([[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]], np.uint8)
"""All pixels of it in the mask: no rim. A diamond, so that slanted rims are as thin as straight ones."""


def data_uri(frame: NDArray[np.uint8], quality: int = 72) -> str:
    """(H, W, 3) uint8 as a ``data:image/jpeg`` address."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=quality, subsampling=0)  # outlines keep their colour
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def read_thumbnail(path: str, longest: int) -> NDArray[np.uint8]:
    """(h, w, 3) uint8, its longer side ``longest`` pixels. Raises DataError if the frame cannot be read.

    ``video.mp4#<index>`` is a frame of a video. Small frames are enlarged: a mask's outline stays one fine line.
    """
    in_video = split_frame_path(path)
    try:
        if in_video is not None:
            rgb = video_frame(*in_video)
        else:
            with Image.open(path) as image:
                image.draft("RGB", (longest, longest))
                rgb = image.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: frame cannot be read for the report ({error})") from error
    scale = longest / max(rgb.size)
    size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
    return np.asarray(rgb.resize(size, Image.Resampling.LANCZOS))


thumbnail = lru_cache(maxsize=64)(read_thumbnail)
"""The same, for pages that show a frame several times."""


def overlay(frame: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The (h, w, 3) frame with the mask, of any size, left as it is, outlined in ``colour``, and all else dimmed.

    A tint would vanish on objects of its own colour; a frame without a mask is dim all over.
    """
    return outlined(frame, [(mask, colour)])


def outlined(
    frame: NDArray[np.uint8], masks: Sequence[tuple[NDArray[np.bool_], tuple[int, int, int]]]
) -> NDArray[np.uint8]:
    """The same for several masks, each with its colour: what is in none of them is dim."""
    import cv2

    out = cv2.transform(np.ascontiguousarray(frame), _DIMMED)
    drawn = [(*inside_and_outline(mask, *frame.shape[:2]), colour) for mask, colour in masks]
    for inside, _, _ in drawn:
        cv2.copyTo(frame, inside.view(np.uint8), out)
    for _, outline, colour in drawn:
        out[outline] = colour
    return out  # type: ignore[no-any-return]


def inside_and_outline(mask: NDArray[np.bool_], height: int, width: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A mask of any size at (height, width): where it is, and its rim of two pixels."""
    import cv2

    # a decoded RLE runs down its columns, which Pillow would copy one by one
    rows = cv2.transpose(mask.T.view(np.uint8)) if mask.flags.f_contiguous else mask.view(np.uint8)
    small = Image.fromarray(rows * np.uint8(255)).resize((width, height), Image.Resampling.BILINEAR)
    inside = np.asarray(small) >= 64  # a thin object may cover a quarter of a small pixel
    core = cv2.erode(inside.view(np.uint8), _RIM, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return inside, inside & ~core.view(np.bool_)


def decode(rle: RLE | None, height: int, width: int, where: str) -> NDArray[np.bool_]:
    """(H, W) bool of one RLE; None is empty. Raises DataError as ``runs``."""
    if rle is None:
        return np.zeros((height, width), np.bool_)
    counts = runs(rle, height, width, where)
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
