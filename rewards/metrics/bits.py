"""Words of 64 pixels: the constants and the one function that every kernel file shares."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

u64 = np.uint64
Words = NDArray[np.uint64]
ONE, ZERO, ALL = u64(1), u64(0), u64(0xFFFFFFFFFFFFFFFF)


@numba.njit(inline="always")
def popcount(x):  # type: ignore[no-untyped-def]
    """Set bits of one word."""
    x = x - ((x >> u64(1)) & u64(0x5555555555555555))
    x = (x & u64(0x3333333333333333)) + ((x >> u64(2)) & u64(0x3333333333333333))
    x = (x + (x >> u64(4))) & u64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * u64(0x0101010101010101)) >> u64(56))
