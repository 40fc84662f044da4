"""Numba kernels that read: COCO count strings and bit strings to packed masks.

A packed mask is (words, lines) uint64 with ``words`` = ceil(length / 64): bit i of word [j, x] is pixel 64*j + i of
line x, and bits beyond ``length`` are 0. Lines are image *columns* when packed from COCO RLE, which runs down columns,
and rows when packed from masks; J and F are the same either way. Neighbouring lines stand side by side in memory, so
that the loops of ``frame_kernels`` run over lines and become vector instructions.

A box is (first line, last line, first pixel, last pixel) of what is set, (lines, -1, length, -1) for nothing.

Numba's on-disk cache looks only at the file of the function that it compiles: a kernel calls kernels of its own file.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from rewards.metrics.bits import ALL, ONE, ZERO, Words, u64

Ints = NDArray[np.int64]
LONGEST = 9
"""Characters of one run length: 45 bits, more than any frame has pixels."""


@numba.njit(cache=True, nogil=True)
def parse_counts(text: NDArray[np.uint8], counts: Ints) -> int:
    """Decode a COCO count string into run lengths; returns how many, or -1 if it is not such a string.

    Base 32 with a continuation bit (0x20) and a sign bit (0x10) on ASCII 48..111; from the fourth run on, differences.
    """
    m = p = 0
    n = text.shape[0]
    while p < n:
        x = np.int64(0)
        k = 0
        more = True
        while more:
            if p >= n or k >= LONGEST or text[p] < 48 or text[p] > 111:
                return -1
            c = np.int64(text[p]) - 48
            x |= (c & 0x1F) << (5 * k)
            more = (c & 0x20) != 0
            p += 1
            k += 1
            if not more and (c & 0x10) != 0:
                x |= np.int64(-1) << (5 * k)
        if m > 2:
            x += counts[m - 2]
        counts[m] = x
        m += 1
    return m


@numba.njit(cache=True, nogil=True)
def total_run(counts: Ints, total: int) -> int:
    """Sum of the runs; -1 as soon as one is negative or the sum passes ``total``."""
    at = 0
    for c in counts:
        if c < 0 or c > total - at:
            return -1
        at += c
    return at


@numba.njit(cache=True, nogil=True)
def set_run(line: int, y: int, count: int, out: Words, box: Ints, length: int) -> None:
    """Set ``count`` > 0 pixels from pixel ``y`` of ``line`` on, over the following lines, and widen the box."""
    box[0] = min(box[0], line)
    if y + count > length:
        box[2], box[3] = 0, length - 1
    else:
        box[2], box[3] = min(box[2], y), max(box[3], y + count - 1)
    while True:
        end = min(y + count, length) - 1
        j, j_end = y >> 6, end >> 6
        head, tail = ALL << u64(y & 63), ALL >> u64(63 - (end & 63))
        if j == j_end:
            out[j, line] |= head & tail
        else:
            out[j, line] |= head
            for k in range(j + 1, j_end):
                out[k, line] = ALL
            out[j_end, line] |= tail
        count -= end + 1 - y
        if count == 0:
            break
        line, y = line + 1, 0
    box[1] = max(box[1], line)


@numba.njit(cache=True, nogil=True)
def pack_counts(counts: Ints, length: int, out: Words, box: Ints) -> None:
    """OR the odd runs into ``out``; the counts are known to fill the frame."""
    line = y = 0
    for i in range(counts.shape[0]):
        if i & 1 and counts[i] > 0:
            set_run(line, y, counts[i], out, box, length)
        y += counts[i]
        if y >= length:
            line, y = line + y // length, y % length


@numba.njit(cache=True, nogil=True)
def pack_texts(text: NDArray[np.uint8], ends: Ints, slots: Ints, length: int, out: Words, boxes: Ints) -> int:
    """OR count strings into masks; returns the first string that does not decode to the frame's pixels, or -1.

    ``text`` is all the strings one after the other, string n ending before ``ends[n]`` and going into mask
    ``out[slots[n]]`` (words, lines) with box ``boxes[slots[n]]``.
    """
    total = length * out.shape[2]
    p = 0
    for n in range(ends.shape[0]):
        mask, box = out[slots[n]], boxes[slots[n]]
        m = at = line = y = 0
        before, last = np.int64(0), np.int64(0)
        while p < ends[n]:
            x = np.int64(0)
            k = 0
            more = True
            while more:
                if p >= ends[n] or k >= LONGEST or text[p] < 48 or text[p] > 111:
                    return n
                c = np.int64(text[p]) - 48
                x |= (c & 0x1F) << (5 * k)
                more = (c & 0x20) != 0
                p += 1
                k += 1
                if not more and (c & 0x10) != 0:
                    x |= np.int64(-1) << (5 * k)
            if m > 2:
                x += before
            before, last = last, x
            if x < 0 or x > total - at:
                return n
            if m & 1 and x > 0:
                set_run(line, y, int(x), mask, box, length)
            at, y = at + int(x), y + int(x)
            if y >= length:
                line, y = line + y // length, y % length
            m += 1
        if at != total:
            return n
    return -1


@numba.njit(cache=True, nogil=True)
def split_lines(bits: Words, start: int, length: int, out: Words, box: Ints) -> None:
    """Cut a string of bits, line after line from bit ``start`` on, into the mask ``out``, and set its box.

    ``bits`` goes on for at least one word after the last line.
    """
    words, lines = out.shape
    rest = ALL >> u64((64 - length) & 63)
    first, last = length, -1
    for j in range(words):
        keep = rest if j == words - 1 else ALL
        seen = ZERO
        for x in range(lines):
            at = start + x * length + 64 * j
            q, o = at >> 6, u64(at & 63)
            word = (bits[q] >> o) | ((bits[q + 1] << ONE) << (u64(63) - o))
            out[j, x] = word & keep
            seen |= word & keep
        if seen != ZERO:
            low = high = 0
            while (seen >> u64(low)) & ONE == ZERO:
                low += 1
            while (seen << u64(high)) >> u64(63) == ZERO:
                high += 1
            first, last = min(first, 64 * j + low), 64 * j + 63 - high
    box[0], box[1], box[2], box[3] = lines, -1, first, last
    for x in range(lines):
        seen = ZERO
        for j in range(first >> 6, (last >> 6) + 1):
            seen |= out[j, x]
        if seen != ZERO:
            box[0], box[1] = min(box[0], x), x
