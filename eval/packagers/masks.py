"""One mask as a PNG: 8 bits, one channel, 0 and 255; and back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rollout.types import RLE


def mask_png(rle: RLE | None, height: int, width: int) -> bytes:
    """PNG of one mask; None is an empty one. The RLE is known to fit."""
    if rle is None:
        return _empty_png(height, width)
    from pycocotools import mask as coco_mask

    counts = rle["counts"]
    if isinstance(counts, list):
        rle = coco_mask.frPyObjects(rle, height, width)
    elif isinstance(counts, str):
        rle = {"size": rle["size"], "counts": counts.encode()}
    return encode_png(coco_mask.decode(rle).astype(np.uint8) * np.uint8(255))


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG of an (H, W) uint8 image; the same image gives the same bytes."""
    import cv2

    done, png = cv2.imencode(".png", np.ascontiguousarray(image))
    if not done:
        raise AssertionError(f"OpenCV could not encode an image of {image.shape} as PNG")
    return bytes(png.tobytes())


def png_problems(content: bytes, height: int, width: int) -> Iterator[str]:
    """What keeps a file from being a binary mask of that size."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.mode != "L":
                yield f"is a PNG of mode {image.mode}, wants 8-bit grey (L)"
                return
            if image.size != (width, height):
                yield f"is {image.height}x{image.width} (height x width), the clip is {height}x{width}"
                return
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        yield f"cannot be read as a PNG ({error})"
        return
    if ((values != 0) & (values != 255)).any():
        yield f"holds grey values other than 0 and 255, such as {int(values[(values != 0) & (values != 255)][0])}"


@lru_cache(maxsize=16)
def _empty_png(height: int, width: int) -> bytes:
    return encode_png(np.zeros((height, width), np.uint8))
