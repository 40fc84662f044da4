"""Numba kernels that score: J's counts and the boundary F of packed masks (layout and boxes: see ``kernels``).

F asks which boundary pixels of one mask lie within the disk x^2 + y^2 <= r^2 of one of the other's. Both boundary maps
are cut into *windows* along the lines: words whose middle ``64 - 2r`` pixels are theirs, with r pixels of their
neighbours on either side. A dilation along the line then never leaves its word. The disk is built from its centre line
outwards: dilating by the *growth* w[d-1] - w[d] of the half width before line d is added makes line d grow by w[d] in
all, since the growths from d + 1 on sum to w[d].

Windows are worked on in tiles of 64 lines; all inner loops run over lines and hold neither branch nor carry.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from rewards.metrics.bits import ALL, ONE, ZERO, Words, popcount, u64

Ints = NDArray[np.int64]
TILE = 64
WIDEST = 24
"""Largest radius: of a window's 64 pixels, at least 16 are its own. Wider disks: ``wide_kernels``."""


@numba.njit(cache=True, nogil=True)
def count_overlap(pred: Words, gt: Words) -> tuple[int, int, int]:
    """Pixels of the intersection, of ``pred`` and of ``gt``, (n,) words each."""
    inter = p_area = g_area = 0
    for x in range(pred.shape[0]):
        inter += popcount(pred[x] & gt[x])
        p_area += popcount(pred[x])
        g_area += popcount(gt[x])
    return inter, p_area, g_area


@numba.njit(cache=True, nogil=True)
def boundary_row(here: Words, after: Words, keep: Words, out: Words) -> int:
    """Boundary of n words of one row of words; ``here`` and the row ``after`` it have n + 1 lines.

    A pixel is one if it differs from the next along its line, the same of the next line, or that one's next. Where
    ``keep`` is 0, at the end of the lines, only the next line counts.
    """
    n = 0
    for x in range(out.shape[0]):
        pixel, south = here[x], here[x + 1]
        east = (pixel >> ONE) | (after[x] << u64(63))
        south_east = (south >> ONE) | (after[x + 1] << u64(63))
        edge = (((pixel ^ east) | (pixel ^ south_east)) & keep) | (pixel ^ south)
        out[x] = edge
        n += popcount(edge)
    return n


@numba.njit(cache=True, nogil=True)
def boundary_map(mask: Words, length: int, box: tuple[int, int, int, int], nothing: Words, out: Words) -> int:
    """Write the half-pixel boundary of lines box[0]..box[1] and word rows box[2]..box[3] to ``out``; returns its size.

    On the last line only the next pixel along it counts, and in the last corner nothing. ``nothing`` is (lines,) of 0.
    """
    words, lines = mask.shape
    x0, x1 = box[0], box[1]
    n = 0
    for j in range(box[2], box[3] + 1):
        keep = ALL if j < words - 1 else (ONE << u64((length - 1) & 63)) - ONE
        after = mask[j + 1] if j + 1 < words else nothing
        stop = min(x1 + 1, lines - 1)
        if stop > x0:
            n += boundary_row(mask[j, x0 : stop + 1], after[x0 : stop + 1], keep, out[j, x0:stop])
        if x1 == lines - 1:
            pixel = mask[j, x1]
            out[j, x1] = (pixel ^ ((pixel >> ONE) | (after[x1] << u64(63)))) & keep
            n += popcount(out[j, x1])
    return n


@numba.njit(cache=True, nogil=True)
def cut_windows(edge: Words, box: tuple[int, int, int, int], start: int, count: int, radius: int, out: Words) -> None:
    """``out[w]``: window w of the boundary map, its own pixels from ``start + w * (64 - 2 * radius)`` on.

    Line box[0] goes to ``out[w, radius]``; 0 on ``radius`` lines before and at least as many after the last.
    """
    n = box[1] - box[0] + 1
    filled = (n + TILE - 1) // TILE * TILE + 2 * radius
    for w in range(count):
        out[w, :filled] = ZERO
        into = out[w, radius : radius + n]
        first = start + w * (64 - 2 * radius) - radius
        j, low = first >> 6, u64(first & 63)
        if box[2] <= j <= box[3]:
            words = edge[j, box[0] : box[1] + 1]
            for x in range(n):
                into[x] = words[x] >> low
        if box[2] <= j + 1 <= box[3] and low != ZERO:
            words = edge[j + 1, box[0] : box[1] + 1]
            high = u64(64) - low
            for x in range(n):
                into[x] |= words[x] << high


@numba.njit(cache=True, nogil=True)
def any_set(words: Words) -> np.uint64:
    """All words of (n,) OR-ed."""
    seen = ZERO
    for x in range(words.shape[0]):
        seen |= words[x]
    return seen


@numba.njit(cache=True, nogil=True)
def dilate(words: Words, by: int) -> None:
    """Dilate TILE words by ``by`` pixels both ways, in steps that leave no gap."""
    done = 0
    while done < by:
        step = min(2 * done + 1, by - done)
        shift = u64(step)
        for x in range(TILE):
            word = words[x]
            words[x] = word | (word << shift) | (word >> shift)
        done += step


@numba.njit(cache=True, nogil=True)
def tile_hits(want: Words, near: Words, own: np.uint64, growth: Ints, scratch: Words) -> int:
    """Pixels of ``want`` (TILE,) within the disk of a pixel of ``near``, (TILE + 2 * radius,) lines around it."""
    radius = growth.shape[0] - 1
    centre = near[radius : radius + TILE]
    for x in range(TILE):
        scratch[x] = centre[x]
    for d in range(1, radius + 1):
        left, right = near[radius - d : radius - d + TILE], near[radius + d : radius + d + TILE]
        if growth[d] > 0:
            dilate(scratch, growth[d] - 1)
            for x in range(TILE):
                word = scratch[x]
                scratch[x] = word | (word << ONE) | (word >> ONE) | left[x] | right[x]
        else:
            for x in range(TILE):
                scratch[x] |= left[x] | right[x]
    n = 0
    for x in range(TILE):
        n += popcount(want[x] & own & scratch[x])
    return n


@numba.njit(cache=True, nogil=True)
def count_near(want: Words, near: Words, lines: int, growth: Ints, scratch: Words) -> int:
    """Pixels of ``want`` within the disk of a pixel of ``near``; both are windows as ``cut_windows`` makes them."""
    radius = growth.shape[0] - 1
    own = ((ONE << u64(64 - 2 * radius)) - ONE) << u64(radius)
    n = 0
    for w in range(want.shape[0]):
        for x in range(0, lines, TILE):
            tile, around = want[w, radius + x : radius + x + TILE], near[w, x : x + TILE + 2 * radius]
            if any_set(tile) & own != ZERO and any_set(around) != ZERO:
                n += tile_hits(tile, around, own, growth, scratch)
    return n


@numba.njit(cache=True, nogil=True)
def score_frames(
    masks: Words, boxes: Ints, length: int, growth: Ints, edges: Words, windows: Words, overlap: Ints, f: Words
) -> None:
    """J's counts (T, 3) and F (T,) of T pairs of masks, (T, 2, words, lines) with boxes (T, 2, 4).

    ``growth`` is (radius + 1,); ``edges`` (2, words, lines) and ``windows`` (2, count, lines + TILE + 2 * radius) are
    scratch. Both boundaries empty: 1, one empty: 0.
    """
    radius, lines = growth.shape[0] - 1, masks.shape[3]
    nothing, scratch = np.zeros(lines, u64), np.empty(TILE, u64)
    for t in range(masks.shape[0]):
        pred, gt = masks[t, 0], masks[t, 1]
        x0, x1 = min(boxes[t, 0, 0], boxes[t, 1, 0]), max(boxes[t, 0, 1], boxes[t, 1, 1])
        y0, y1 = min(boxes[t, 0, 2], boxes[t, 1, 2]), max(boxes[t, 0, 3], boxes[t, 1, 3])
        overlap[t, :] = 0
        f[t] = 1.0
        if x1 < x0:
            continue
        for j in range(y0 >> 6, (y1 >> 6) + 1):
            i, p, g = count_overlap(pred[j, x0 : x1 + 1], gt[j, x0 : x1 + 1])
            overlap[t, 0] += i
            overlap[t, 1] += p
            overlap[t, 2] += g
        x0, y0 = max(x0 - 1, 0), max(y0 - 1, 0)  # the pixel before a mask differs from it
        box = (x0, x1, y0 >> 6, y1 >> 6)
        n_pred = boundary_map(pred, length, box, nothing, edges[0])
        n_gt = boundary_map(gt, length, box, nothing, edges[1])
        if n_pred == 0 or n_gt == 0:
            f[t] = 1.0 if n_pred == n_gt else 0.0
            continue
        count = (y1 - y0) // (64 - 2 * radius) + 1
        for side in range(2):
            cut_windows(edges[side], box, y0, count, radius, windows[side])
        a, b = windows[0, :count], windows[1, :count]
        precision = count_near(a, b, x1 - x0 + 1, growth, scratch) / n_pred
        recall = count_near(b, a, x1 - x0 + 1, growth, scratch) / n_gt
        f[t] = 0.0 if precision + recall == 0.0 else 2.0 * precision * recall / (precision + recall)
