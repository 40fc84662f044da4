"""Near-duplicate texts in a stream, in bounded memory: MinHash signatures (Broder 1997) and banded hash tables.

P permutations, B bands of R signature rows. Jaccard similarity of two sets of 5-word shingles is estimated by the
share of equal signature rows: with P = 128 its standard error near 0.9 is 0.03; equal texts are always found.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
PERMUTATIONS, BANDS, ROWS = 128, 25, 5
_WORD = re.compile(r"\w+")


class NearDuplicates:
    """Remembers the last ``window`` texts: about 0.9 KB each, and no more, however many come by."""

    def __init__(self, threshold: float, window: int = 1 << 16) -> None:
        self.threshold, self.window = threshold, window
        rng = np.random.default_rng(20260)
        self._factors = rng.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64) * 2 + 1
        self._offsets = rng.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64)
        self._mix = rng.integers(0, 2**63, ROWS, dtype=np.uint64) * 2 + 1
        self._bits = max(10, window.bit_length() + 1)
        self._signatures = np.zeros((window, PERMUTATIONS), dtype=np.uint32)
        self._tables = np.zeros((BANDS, 1 << self._bits), dtype=np.uint32)
        """Place in the ring + 1 of the last text that fell into the slot; 0 = none."""
        self._ids: list[str] = []
        self._next = 0

    def signature(self, text: str) -> NDArray[np.uint32]:
        """(P,) of the text's shingles, case and punctuation aside."""
        words = _WORD.findall(text.lower())
        last = max(1, len(words) - SHINGLE + 1)
        shingles = {zlib.crc32(" ".join(words[i : i + SHINGLE]).encode()) for i in range(last)}
        hashes = np.fromiter(shingles, dtype=np.uint64, count=len(shingles))
        values = (hashes[:, None] * self._factors + self._offsets) >> np.uint64(32)  # wraps modulo 2^64
        return values.min(axis=0).astype(np.uint32)

    def find(self, signature: NDArray[np.uint32]) -> tuple[str, float] | None:
        """Id of the most similar remembered text at or above the threshold, and the similarity."""
        places = self._tables[np.arange(BANDS), self._slots(signature)]
        places = np.unique(places[places > 0]) - 1
        if not len(places):
            return None
        similar = (self._signatures[places] == signature).mean(axis=1)
        best = int(similar.argmax())
        if similar[best] < self.threshold:
            return None
        return self._ids[int(places[best])], float(similar[best])

    def add(self, id: str, signature: NDArray[np.uint32]) -> None:
        """Remember a text; the oldest makes room."""
        place = self._next % self.window
        self._next += 1
        if place == len(self._ids):
            self._ids.append(id)
        else:
            self._ids[place] = id
        self._signatures[place] = signature
        self._tables[np.arange(BANDS), self._slots(signature)] = place + 1

    def _slots(self, signature: NDArray[np.uint32]) -> NDArray[np.int64]:
        bands = signature[: BANDS * ROWS].reshape(BANDS, ROWS).astype(np.uint64)
        mixed = (bands * self._mix).sum(axis=1, dtype=np.uint64) >> np.uint64(64 - self._bits)
        return mixed.astype(np.int64)
