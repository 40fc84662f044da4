"""A policy's own masks on the frames that it is shown.

A picture depends on the frame's file and on the mask that is handed in, and on nothing else: ground truth has no way
in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rollout.types import decode_rle

if TYPE_CHECKING:
    from PIL.Image import Image

COLOUR = (235, 60, 40)
TINT = 0.4
"""Of the colour inside a mask; its outline has all of it."""


def draw_mask(image: Image, counts: str, size: tuple[int, int]) -> Image:
    """A copy of ``image`` with a mask tinted and outlined.

    counts: COCO run lengths of the mask at ``size`` (height, width), that of the clip's frames; drawn at the image's.
    """
    from PIL import Image as pil

    mask = pil.fromarray(decode_rle({"size": [*size], "counts": counts}))
    inside = np.array(mask.resize(image.size, pil.Resampling.NEAREST))
    pixels, colour = np.array(image, dtype=np.float32), np.array(COLOUR, dtype=np.float32)
    pixels[inside] += TINT * (colour - pixels[inside])
    pixels[outline(inside)] = colour
    return pil.fromarray(np.rint(pixels).astype(np.uint8))


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(H, W): pixels of a mask that touch one outside it; the image's own edge is none."""
    edge = np.zeros_like(mask)
    for axis in (0, 1):
        first = [slice(None), slice(None)]
        second = [slice(None), slice(None)]
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        differs = mask[tuple(first)] != mask[tuple(second)]
        edge[tuple(first)] |= differs
        edge[tuple(second)] |= differs
    return edge & mask
