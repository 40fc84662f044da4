"""Take out of a picture what is left of it at half or a quarter of its size, so that it shows at full size only.

Shrinking by Pillow's bicubic filter is linear: y = R x R^T with R (S / n, S). What the half does not see is x - P x P,
with P the projection onto R's rows. What the quarter still sees of that is taken out by the smallest change that the
half does not see either: for change = unseen(Q^T a Q), with Q the quarter's R, the weights a solve
(Q Q^T) a (Q Q^T) - (Q P Q^T) a (Q P Q^T) = leak, which one change of basis makes a division.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
HALF, QUARTER = 2, 4
_NEGLIGIBLE = 1e-9
"""Directions that both sizes see alike hold nothing any more once the half's are gone."""


def unseen_part(pictures: NDArray[np.floating]) -> NDArray[np.float32]:
    """(..., S, S): what of them vanishes both at S / 2 and at S / 4 pixels; nearly all of a fine pattern."""
    s = _sizes(pictures.shape[-1])
    unseen = pictures - s.half @ pictures @ s.half
    leak = s.to_basis @ (s.quarter @ unseen @ s.quarter.T) @ s.to_basis.T
    weights = s.to_basis.T @ np.where(s.scale > _NEGLIGIBLE, leak / np.maximum(s.scale, _NEGLIGIBLE), 0) @ s.to_basis
    change = s.quarter.T @ weights @ s.quarter
    return np.asarray(unseen - (change - s.half @ change @ s.half), dtype=np.float32)


@dataclass(frozen=True)
class _Sizes:
    half: Matrix
    """(S, S) projection onto the rows that shrink to a half."""
    quarter: Matrix
    """(S / 4, S)"""
    to_basis: Matrix
    """(S / 4, S / 4), in which both sides of the equation are diagonal."""
    scale: Matrix
    """(S / 4, S / 4) that they multiply by."""


@cache
def _sizes(size: int) -> _Sizes:
    rows = shrink_matrix(size, HALF)
    half, quarter = np.linalg.pinv(rows) @ rows, shrink_matrix(size, QUARTER)
    root = np.linalg.inv(np.linalg.cholesky(quarter @ quarter.T))
    shares, turn = np.linalg.eigh(root @ (quarter @ half @ quarter.T) @ root.T)
    return _Sizes(half, quarter, turn.T @ root, 1 - np.outer(shares, shares))


def shrink_matrix(size: int, factor: int) -> Matrix:
    """(S / factor, S) weights of Pillow's bicubic filter (Keys, a = -0.5), whose support grows with the factor."""
    centres = (np.arange(size // factor) + 0.5) * factor
    far = np.abs((np.arange(size)[None, :] + 0.5 - centres[:, None]) / factor)
    near_part = (1.5 * far - 2.5) * far**2 + 1
    far_part = ((-0.5 * far + 2.5) * far - 4) * far + 2
    weights = np.where(far < 1, near_part, np.where(far < 2, far_part, 0.0))
    return np.asarray(weights / weights.sum(1, keepdims=True))
