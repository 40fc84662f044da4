"""Qwen-VL's three-row rotary positions, from token ids and vision grids alone (no model, no torch)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mrope_positions(
    token_ids: Sequence[int], image_pad: int, grids: Sequence[tuple[int, int, int]], merge: int
) -> NDArray[np.int64]:
    """(3, L) int64 rows time, height, width; ``grids`` are (1, rows, columns) in patches, one per image.

    Text advances all rows by one a token. An image keeps time still and spreads rows and columns from the current
    position; the text after it goes on from the larger of the two extents.
    """
    ids = np.asarray(token_ids, dtype=np.int64)
    out = np.empty((3, len(ids)), dtype=np.int64)
    done, position = 0, 0
    images = iter(grids)
    pads = np.flatnonzero(ids == image_pad)
    starts = pads[np.flatnonzero(np.diff(pads, prepend=-2) != 1)]
    for start in starts.tolist():
        length = start - done
        out[:, done:start] = position + np.arange(length)
        position += length
        _, rows, columns = next(images)
        h, w = rows // merge, columns // merge
        out[0, start : start + h * w] = position
        out[1, start : start + h * w] = position + np.repeat(np.arange(h), w)
        out[2, start : start + h * w] = position + np.tile(np.arange(w), h)
        position += max(h, w)
        done = start + h * w
    out[:, done:] = position + np.arange(len(ids) - done)
    return out
