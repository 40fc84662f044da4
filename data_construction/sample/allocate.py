"""How many items each stratum gives: shares kept within one item, the total exact."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from fractions import Fraction
from typing import TypeVar

from rollout.errors import DataError

K = TypeVar("K", bound=Hashable)


def quotas(counts: Mapping[K, int], size: int) -> dict[K, Fraction]:
    """``size * n / N`` for each stratum, exact. Raises DataError if ``size`` is negative or more than there are."""
    total = sum(counts.values())
    if not 0 <= size <= total:
        raise DataError(f"cannot draw {size} of {total} expressions; give a size from 0 to {total}")
    return {key: Fraction(size * n, total) if total else Fraction(0) for key, n in counts.items()}


def by_remainder(shares: Mapping[K, Fraction]) -> list[K]:
    """Strata with a fractional quota, the largest remainder first; equal ones in the given order."""
    rest = {key: share - int(share) for key, share in shares.items()}
    return sorted((key for key in shares if rest[key]), key=lambda key: -rest[key])


def largest_remainder(counts: Mapping[K, int], size: int) -> dict[K, int]:
    """Hamilton's method: every quota rounded down, the items left over go to the largest remainders.

    Every stratum ends less than one item from its quota, and the sum is ``size``. Raises DataError as ``quotas``.
    """
    shares = quotas(counts, size)
    out = {key: int(share) for key, share in shares.items()}
    for key in by_remainder(shares)[: size - sum(out.values())]:
        out[key] += 1
    return out
