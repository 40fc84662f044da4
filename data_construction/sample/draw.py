"""Draw items stratum by stratum, at random under a seed, with at most so many from one clip.

Without a cap this is largest remainder and a shuffle. With one, strata compete for the same clips: an item already
drawn may have to make room for another one of its stratum elsewhere. Each step of ``_Drawing.take`` looks for such a
chain of swaps (an augmenting path), so that shares are missed only where no draw at all could keep them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from data_construction.sample.allocate import by_remainder, quotas
from data_construction.sample.population import Item, Key
from rollout.errors import DataError


@dataclass(frozen=True)
class Draw:
    """What was drawn, in the population's order."""

    items: list[Item]
    before: dict[Key, int]
    after: dict[Key, int]
    quotas: dict[Key, Fraction]
    off: dict[Key, int] = field(default_factory=dict)
    """Strata that the cap kept a whole item or more from their quota (only under ``relax``), with the gap."""


def draw(items: Sequence[Item], size: int, seed: int, per_clip: int | None = None, relax: bool = False) -> Draw:
    """``size`` items whose joint shares are those of ``items`` within one item in every stratum.

    The same items, numbers and seed give the same draw. ``per_clip``: at most so many items of one clip. Raises
    DataError with the numbers if the cap makes the shares impossible; ``relax`` then takes the nearest draw that
    still has the exact size, and says which strata are off.
    """
    before = dict(sorted(Counter(item.key for item in items).items()))
    shares = quotas(before, size)
    drawing = _filled(items, shares, size, seed, per_clip)
    if len(drawing.taken) < size:
        if not relax:
            raise DataError(_explain(items, shares, drawing, size, seed, per_clip or 0))
        drawing.top_up(size, shares)
        if len(drawing.taken) < size:
            room = sum(min(per_clip or n, n) for n in Counter(item.clip for item in items).values())
            raise DataError(f"cannot draw {size}: with at most {per_clip} a clip there are only {room} expressions")
    after = {key: drawing.count[key] for key in before}
    gaps = {key: after[key] - share for key, share in shares.items()}
    off = {key: int(gap) for key, gap in gaps.items() if abs(gap) >= 1}
    return Draw([items[i] for i in sorted(drawing.taken)], before, after, shares, off)


def _filled(
    items: Sequence[Item], shares: Mapping[Key, Fraction], size: int, seed: int, per_clip: int | None
) -> _Drawing:
    """Every stratum up to its quota rounded down, then one more each, the largest remainders first."""
    drawing = _Drawing(items, seed, per_clip)
    for key, share in shares.items():
        while drawing.count[key] < int(share) and drawing.take(key):
            pass
    if len(drawing.taken) == sum(int(s) for s in shares.values()):
        for key in by_remainder(shares):
            if len(drawing.taken) < size:
                drawing.take(key)
    return drawing


class _Drawing:
    """Items taken so far. ``items`` are referred to by their position."""

    def __init__(self, items: Sequence[Item], seed: int, per_clip: int | None) -> None:
        self.items, self.cap = items, per_clip if per_clip is not None else len(items)
        self.taken: set[int] = set()
        self.count: Counter[Key] = Counter()
        self.in_clip: Counter[str] = Counter()
        self.order: dict[Key, deque[int]] = {}
        self.free: dict[Key, dict[str, list[int]]] = {}
        """Not yet taken, by stratum and clip, in shuffled order; and those taken:"""
        self.held: dict[Key, dict[str, list[int]]] = {}
        for i in np.random.default_rng(seed).permutation(len(items)).tolist():
            key, clip = items[i].key, items[i].clip
            self.order.setdefault(key, deque()).append(i)
            self.free.setdefault(key, {}).setdefault(clip, []).append(i)
            self.held.setdefault(key, {}).setdefault(clip, [])

    def take(self, key: Key) -> bool:
        """One more of this stratum: at random, else by swaps; False if no draw can hold one more."""
        waiting = self.order.get(key, deque())
        while waiting:
            i = waiting.popleft()
            if i not in self.taken and self.in_clip[self.items[i].clip] < self.cap:
                self._add(i)
                return True
        return self._swap(key)

    def top_up(self, size: int, shares: Mapping[Key, Fraction]) -> None:
        """Whatever still fits, the strata farthest below their quota first."""
        stuck: set[Key] = set()
        while len(self.taken) < size and len(stuck) < len(shares):
            open_ = [key for key in shares if key not in stuck]
            key = max(open_, key=lambda k: shares[k] - self.count[k])
            if not self.take(key):
                stuck.add(key)

    def _add(self, i: int) -> None:
        item = self.items[i]
        self.free[item.key][item.clip].remove(i)
        self.held[item.key][item.clip].append(i)
        self.taken.add(i)
        self.count[item.key] += 1
        self.in_clip[item.clip] += 1

    def _remove(self, i: int) -> None:
        item = self.items[i]
        self.held[item.key][item.clip].remove(i)
        self.free[item.key][item.clip].append(i)
        self.taken.discard(i)
        self.count[item.key] -= 1
        self.in_clip[item.clip] -= 1

    def _swap(self, key: Key) -> bool:
        """Breadth first over strata: take in a full clip what another stratum gives up there and finds elsewhere."""
        came: dict[Key, tuple[Key, str]] = {}
        queue = deque([key])
        visited: set[str] = set()
        while queue:
            wants = queue.popleft()
            for clip, left in self.free.get(wants, {}).items():
                if not left or clip in visited:
                    continue
                if self.in_clip[clip] < self.cap:
                    self._add(left[-1])
                    while wants != key:  # walk the chain back: each gives up its item in the clip it was found by
                        taker, where = came[wants]
                        self._remove(self.held[wants][where][-1])
                        self._add(self.free[taker][where][-1])
                        wants = taker
                    return True
                visited.add(clip)
                for other, clips in self.held.items():
                    if other != key and other not in came and clips.get(clip):
                        came[other] = (wants, clip)
                        queue.append(other)
        return False


def _explain(
    items: Sequence[Item], shares: Mapping[Key, Fraction], got: _Drawing, size: int, seed: int, cap: int
) -> str:
    """Which strata fall short, the smallest cap that would do and the largest size that this one allows."""
    short = {key: int(share) - got.count[key] for key, share in shares.items() if got.count[key] < int(share)}
    lines = [
        f"{' x '.join(key)}: wants {float(shares[key]):.1f}, at most {got.count[key]} fit beside the others"
        for key in sorted(short, key=lambda k: -short[k])[:4]
    ] or [f"the last {size - len(got.taken)} items fit in no stratum"]
    enough = next(c for c in range(cap + 1, len(items) + 1) if _fits(items, size, seed, c))
    low, high = 0, size
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(items, middle, seed, cap) else (low, middle)
    return (
        f"at most {cap} a clip makes the shares of {size} expressions impossible: {'; '.join(lines)}. "
        f"--per-clip {enough} would do, or --size {low} with this cap; --relax takes the nearest draw"
    )


def _fits(items: Sequence[Item], size: int, seed: int, cap: int) -> bool:
    shares = quotas(dict(sorted(Counter(item.key for item in items).items())), size)
    return len(_filled(items, shares, size, seed, cap).taken) == size
