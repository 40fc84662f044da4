"""Frames and masks as pictures, made when a page asks for them and remembered for the next."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from eval.report.images import GT_COLOUR, PRED_COLOUR, decode, inside_and_outline, read_thumbnail
from rollout.errors import DataError
from rollout.types import RLE, Clip
from rollout.video import split_frame_path

SIDES = (96, 160, 320)
"""Longer sides, in pixels, in which pictures are asked for."""
INSIDE, OUTSIDE, OUTLINE = 0, 1, 2
DIM = 130
"""Of 255: how dark all that is not in the mask is laid over."""


def frame_size(clip: Clip, side: int) -> tuple[int, int]:
    """(width, height) of a picture whose longer side is ``side``."""
    scale = side / max(clip.width, clip.height)
    return max(1, round(clip.width * scale)), max(1, round(clip.height * scale))


def frame_jpeg(clip: Clip, frame: int, side: int) -> bytes:
    """The frame; in its place a grey picture that says what is wrong with it."""
    path = clip.frames[frame]
    problem = frame_problem(clip, frame)
    if problem is None:
        try:
            return _jpeg(path, _changed(path), side, frame_size(clip, side))
        except DataError:
            problem = "cannot be read"
    return _words(f"frame {frame}\n{problem}", frame_size(clip, side))


def frame_problem(clip: Clip, frame: int) -> str | None:
    """What keeps a frame from being shown, in two words; None if it is there."""
    file = _file(clip.frames[frame])
    return None if os.path.isfile(file) else "is gone"


@lru_cache(maxsize=4096)
def _jpeg(path: str, changed: int, side: int, size: tuple[int, int]) -> bytes:
    image = Image.fromarray(read_thumbnail(path, side))
    if image.size != size:
        return _words(f"the frame's shape is\nnot what it was\n({image.width}:{image.height})", size)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()


def mask_png(rle: RLE | None, clip: Clip, side: int, truth: bool = False) -> bytes:
    """A layer over the frame: an outline, and for a prediction all else dimmed. Raises DataError for a broken RLE."""
    mask = decode(rle, clip.height, clip.width, f"{clip.name}, mask")
    inside, outline = inside_and_outline(mask, *reversed(frame_size(clip, side)))
    values = np.full(inside.shape, OUTSIDE, np.uint8)
    values[inside] = INSIDE
    values[outline] = OUTLINE
    colour = GT_COLOUR if truth else PRED_COLOUR
    return _palette_png(values, [(0, 0, 0, 0), (0, 0, 0, 0 if truth else DIM), (*colour, 255)])


def warm_up() -> None:
    """The first mask takes most of a second: its decoder is compiled."""
    decode({"size": [2, 2], "counts": "04"}, 2, 2, "warm-up")


def boxes_png(boxes: Sequence[Sequence[float]], clip: Clip, side: int) -> bytes:
    """``boxes`` as shares of the frame."""
    width, height = frame_size(clip, side)
    layer = Image.new("P", (width, height), INSIDE)
    draw = ImageDraw.Draw(layer)
    for x0, y0, x1, y1 in boxes:
        left, right = sorted((x0 * (width - 1), x1 * (width - 1)))
        top, bottom = sorted((y0 * (height - 1), y1 * (height - 1)))
        draw.rectangle((left, top, right, bottom), outline=OUTLINE, width=2)
    return _palette_png(np.asarray(layer), [(0, 0, 0, 0), (0, 0, 0, 0), (*PRED_COLOUR, 255)])


def _palette_png(values: NDArray[np.uint8], colours: Sequence[tuple[int, int, int, int]]) -> bytes:
    image = Image.frombytes("P", (values.shape[1], values.shape[0]), values.tobytes())
    image.putpalette([c for colour in colours for c in colour[:3]])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=bytes(colour[3] for colour in colours))
    return buffer.getvalue()


@lru_cache(maxsize=256)
def _words(text: str, size: tuple[int, int]) -> bytes:
    image = Image.new("RGB", size, (120, 122, 128))
    ImageDraw.Draw(image).multiline_text((4, 3), text, fill=(255, 255, 255))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()


def _file(path: str) -> str:
    in_video = split_frame_path(path)
    return path if in_video is None else str(in_video[0])


def _changed(path: str) -> int:
    """A frame that was written anew is another picture."""
    try:
        return os.stat(_file(path)).st_mtime_ns
    except OSError:
        return 0
