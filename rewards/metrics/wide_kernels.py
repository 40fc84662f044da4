"""Numba kernels for disks wider than ``frame_kernels`` takes: frames beyond 1440p, where the radius passes 24 pixels.

Here a mask is (lines, words), the transpose of the other kernels'. Every line is dilated by 0..radius once, word by
word with what comes over from its neighbours, and each boundary word gathers the lines around it until none is missing.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from rewards.metrics.bits import ONE, ZERO, Words, popcount, u64

Box = tuple[int, int, int, int]


@numba.njit(cache=True, nogil=True)
def boundary_map(mask: Words, length: int, out: Words) -> tuple[int, Box]:
    """Half-pixel boundary: a pixel that differs from its east, south or south-east neighbour.

    On the last line only the east neighbour counts, on the last pixel of a line only the south one, in the corner none.
    Returns the number of boundary pixels and their bounds (first line, last line, first word, last word).
    """
    lines, words = mask.shape
    last = ONE << u64((length - 1) & 63)
    n, y0, y1, w0, w1 = 0, lines, -1, words, -1
    for y in range(lines):
        for j in range(words):
            here = mask[y, j]
            right = mask[y, j + 1] if j + 1 < words else ZERO
            east = (here >> ONE) | (right << u64(63))
            if y + 1 < lines:
                south = mask[y + 1, j]
                south_right = mask[y + 1, j + 1] if j + 1 < words else ZERO
                south_east = (south >> ONE) | (south_right << u64(63))
                edge = (here ^ east) | (here ^ south) | (here ^ south_east)
                if j == words - 1:
                    edge = (edge & ~last) | ((here ^ south) & last)
            else:
                edge = here ^ east
                if j == words - 1:
                    edge &= ~last
            out[y, j] = edge
            if edge != ZERO:
                n += popcount(edge)
                y0, y1, w0, w1 = min(y0, y), max(y1, y), min(w0, j), max(w1, j)
    return n, (y0, y1, w0, w1)


@numba.njit(cache=True, nogil=True)
def dilate_line(line: Words, w0: int, w1: int, radius: int, out: Words) -> None:
    """``out[k, j - w0]`` = words w0..w1 of the line, dilated by k pixels both ways, for k = 0..radius."""
    words = line.shape[0]
    for j in range(w0, w1 + 1):
        acc = line[j]
        out[0, j - w0] = acc
        for q in range(radius // 64 + 1):  # whole words of shift: one round unless the frame is larger than 8K
            left = line[j - q] if j - q >= 0 else ZERO
            left2 = line[j - q - 1] if j - q - 1 >= 0 else ZERO
            right = line[j + q] if j + q < words else ZERO
            right2 = line[j + q + 1] if j + q + 1 < words else ZERO
            if q > 0:
                acc |= left | right
                out[64 * q, j - w0] = acc
            for k in range(64 * q + 1, min(64 * q + 63, radius) + 1):
                s = u64(k - 64 * q)
                c = u64(64) - s
                acc |= (left << s) | (left2 >> c) | (right >> s) | (right2 << c)
                out[k, j - w0] = acc


@numba.njit(cache=True, nogil=True)
def count_near(a: Words, a_box: Box, b: Words, b_box: Box, radius: int, half_widths: NDArray[np.int64]) -> int:
    """How many pixels of ``a`` lie within the disk x^2 + y^2 <= radius^2 of a pixel of ``b``.

    ``half_widths[d]`` is the disk's half width d lines off its centre.
    """
    reach = radius // 64 + 1
    y0, y1 = max(a_box[0], b_box[0] - radius), min(a_box[1], b_box[1] + radius)
    w0, w1 = max(a_box[2], b_box[2] - reach), min(a_box[3], b_box[3] + reach)
    if y1 < y0 or w1 < w0:
        return 0
    s0, s1 = max(b_box[0], y0 - radius), min(b_box[1], y1 + radius)
    if s1 < s0:
        return 0
    words = b.shape[1]
    wide = np.zeros((s1 - s0 + 1, radius + 1, w1 - w0 + 1), u64)
    filled = np.zeros(s1 - s0 + 1, np.bool_)
    for y in range(s0, s1 + 1):
        for j in range(max(0, w0 - reach), min(words, w1 + reach + 1)):
            if b[y, j] != ZERO:
                filled[y - s0] = True
                break
        if filled[y - s0]:
            dilate_line(b[y], w0, w1, radius, wide[y - s0])
    n = 0
    for y in range(y0, y1 + 1):
        for j in range(w0, w1 + 1):
            want = a[y, j]
            if want == ZERO:
                continue
            got = ZERO
            for d in range(radius + 1):  # from the centre line outwards: a good boundary is met at once
                if s0 <= y - d <= s1 and filled[y - d - s0]:
                    got |= wide[y - d - s0, half_widths[d], j - w0]
                if s0 <= y + d <= s1 and filled[y + d - s0]:
                    got |= wide[y + d - s0, half_widths[d], j - w0]
                if (want & ~got) == ZERO:
                    break
            n += popcount(want & got)
    return n


@numba.njit(cache=True, nogil=True)
def boundary_f(
    pred: Words, gt: Words, length: int, radius: int, half_widths: NDArray[np.int64], pred_edge: Words, gt_edge: Words
) -> float:
    """Boundary F of one frame; the two ``*_edge`` arrays are scratch space of the masks' shape."""
    n_pred, p_box = boundary_map(pred, length, pred_edge)
    n_gt, g_box = boundary_map(gt, length, gt_edge)
    if n_pred == 0 and n_gt == 0:
        return 1.0
    if n_pred == 0 or n_gt == 0:
        return 0.0
    precision = count_near(pred_edge, p_box, gt_edge, g_box, radius, half_widths) / n_pred
    recall = count_near(gt_edge, g_box, pred_edge, p_box, radius, half_widths) / n_gt
    if precision + recall == 0.0:
        return 0.0
    return 2.0 * precision * recall / (precision + recall)
