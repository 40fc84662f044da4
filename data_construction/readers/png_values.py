"""Values of a mask PNG, however the library that wrote it stores them: palette, grey, 16 bit, 1 bit, RGB(A)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.problems import Problem

Values = NDArray[np.integer[Any]]
PLAIN = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
"""Pillow's modes of one number a pixel: a palette's is the index."""


def read_png(file: Path, clip: str, frame: str, any_value: bool) -> Values:
    """(H, W) values. ``any_value``: only whether it is the background (0) counts, so colours do as well.

    Raises DataError for a file that cannot be decoded, or whose colours are no numbers of objects.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode in PLAIN:
                return np.asarray(image).astype(np.int32)
            rgba = np.asarray(image.convert("RGBA")).astype(np.int32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise Problem("unreadable_mask", str(file), f"cannot be decoded ({e})", clip, frame).error() from e
    values = _drawn(rgba) if any_value else _numbers(rgba)
    if values is None:
        what = "has colours that are neither grey nor of the usual palette of masks, so they name no object"
        raise Problem("unreadable_mask", str(file), what, clip, frame, remedy="save grey or palette").error()
    return values


def _drawn(rgba: Values) -> Values:
    """What is neither black nor transparent; where all is black, what is not transparent."""
    seen = rgba[:, :, 3] > 0
    drawn = seen & (rgba[:, :, :3].max(axis=2) > 0)
    return (drawn if drawn.any() or seen.all() else seen).astype(np.int32)


def _numbers(rgba: Values) -> Values | None:
    """Of grey saved as RGB, the grey; of PASCAL VOC's and DAVIS' palette saved as RGB, the index; None of others."""
    rgb = np.where(rgba[:, :, 3:] > 0, rgba[:, :, :3], 0)
    if (rgb == rgb[:, :, :1]).all():
        return rgb[:, :, 0]
    code = (rgb[:, :, 0] << 16) | (rgb[:, :, 1] << 8) | rgb[:, :, 2]
    found, places = np.unique(code, return_inverse=True)
    known = {(r << 16) | (g << 8) | b: n for n, (r, g, b) in enumerate(voc_palette())}
    indices = [known.get(int(c), -1) for c in found]
    return None if min(indices) < 0 else np.array(indices, np.int32)[places].reshape(code.shape)


def voc_palette() -> list[tuple[int, int, int]]:
    """The 256 colours of PASCAL VOC's masks: an index's bits, three by three, are the high bits of r, g and b."""
    out = []
    for index in range(256):
        red = green = blue = 0
        for bit in range(8):
            three = index >> 3 * bit
            red |= (three & 1) << 7 - bit
            green |= (three >> 1 & 1) << 7 - bit
            blue |= (three >> 2 & 1) << 7 - bit
        out.append((red, green, blue))
    return out
