"""The stratified draw on random populations: exact size, shares within one item, caps, and the same every time."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from data_construction.sample import Item, draw, largest_remainder
from data_construction.sample.strata import binned
from rollout.errors import DataError

SEEDS = range(40)


def population(seed: int) -> list[Item]:
    """Up to 400 expressions: strata of very unequal size, clips of 1 to 30 expressions."""
    rng = np.random.default_rng(seed)
    total = int(rng.integers(1, 400))
    types = rng.choice(["referring", "reasoning", "none"], total, p=rng.dirichlet([0.6] * 3))
    counts = np.minimum(rng.geometric(0.5, total), 6)
    clips = rng.integers(0, max(1, total // int(rng.integers(1, 30))), total)
    return [
        Item(f"clip{c}", str(i), (str(t), str(n))) for i, (c, t, n) in enumerate(zip(clips, types, counts, strict=True))
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_are_kept_within_one_item_and_the_size_is_exact(seed: int) -> None:
    items = population(seed)
    size = int(np.random.default_rng([seed, 1]).integers(0, len(items) + 1))
    drawn = draw(items, size, seed)
    assert len(drawn.items) == size == len({i.id for i in drawn.items}) and not drawn.off
    before, after = Counter(i.key for i in items), Counter(i.key for i in drawn.items)
    for key, n in before.items():
        assert abs(after[key] - Fraction(size * n, len(items))) < 1
    assert {k: n for k, n in drawn.after.items() if n} == dict(after) == {k: n for k, n in largest(items, size) if n}
    assert [items.index(i) for i in drawn.items] == sorted(items.index(i) for i in drawn.items)


def largest(items: list[Item], size: int) -> list[tuple[tuple[str, ...], int]]:
    return list(largest_remainder(dict(sorted(Counter(i.key for i in items).items())), size).items())


def test_the_largest_remainders_win_by_hand() -> None:
    # quotas of 10 from 53: 3.96, 3.21, 2.26, 0.57
    assert largest_remainder({"a": 21, "b": 17, "c": 12, "d": 3}, 10) == {"a": 4, "b": 3, "c": 2, "d": 1}
    assert largest_remainder({"a": 5, "b": 5}, 10) == {"a": 5, "b": 5}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_draws_the_same_and_another_one_differs(seed: int) -> None:
    items = population(seed)
    size = len(items) // 3
    first = draw(items, size, 7)
    assert first == draw(list(items), size, 7)
    if len(items) > 60:
        assert first.items != draw(items, size, 8).items


@pytest.mark.parametrize("seed", SEEDS)
def test_caps_hold_and_cost_no_share_where_a_draw_can_keep_them(seed: int) -> None:
    items = population(seed)
    rng = np.random.default_rng([seed, 2])
    size, cap = int(rng.integers(0, len(items) + 1)), int(rng.integers(1, 8))
    try:
        drawn = draw(items, size, seed, per_clip=cap)
    except DataError as e:
        assert f"at most {cap} a clip" in str(e)
        return
    assert len(drawn.items) == size
    assert max(Counter(i.clip for i in drawn.items).values(), default=0) <= cap
    for key, n in drawn.before.items():
        assert abs(drawn.after[key] - Fraction(size * n, len(items))) < 1


def possible(items: list[Item], size: int, cap: int) -> bool:
    """Every subset, for populations small enough."""
    before = Counter(i.key for i in items)
    for chosen in itertools.combinations(items, size):
        after = Counter(i.key for i in chosen)
        fair = all(abs(after[k] - Fraction(size * n, len(items))) < 1 for k, n in before.items())
        if fair and max(Counter(i.clip for i in chosen).values(), default=0) <= cap:
            return True
    return False


def test_a_draw_is_found_exactly_where_there_is_one() -> None:
    found = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        keys = rng.integers(0, 3, 10)
        clips = (keys + (rng.random(10) < 0.4) * rng.integers(1, 3, 10)) % 3
        items = [Item(f"c{c}", str(i), (str(k),)) for i, (c, k) in enumerate(zip(clips, keys, strict=True))]
        size, cap = int(rng.integers(1, 9)), int(rng.integers(1, 4))
        try:
            draw(items, size, seed, per_clip=cap)
            ok = True
        except DataError:
            ok = False
        assert ok == possible(items, size, cap), (seed, size, cap)
        found += ok
    assert 30 < found < 120


def test_swaps_make_room() -> None:
    # The one "b" is in clip x, so both "a" must come from y and z although x has most of them.
    items = [Item("x", str(i), ("a",)) for i in range(5)]
    items += [Item("y", "5", ("a",)), Item("z", "6", ("a",)), Item("x", "7", ("b",)), Item("x", "8", ("b",))]
    for seed in range(20):
        drawn = draw(items, 3, seed, per_clip=1)
        assert sorted(i.clip for i in drawn.items if i.key == ("a",)) == ["y", "z"]


def test_impossible_shares_are_said_with_numbers_and_relax_takes_the_nearest() -> None:
    items = [Item("x", str(i), ("rare",)) for i in range(20)] + [Item(f"c{i}", str(i), ("common",)) for i in range(20)]
    with pytest.raises(DataError, match=r"rare: wants 10\.0, at most 2 fit") as e:
        draw(items, 20, 0, per_clip=2)
    assert "at most 2 a clip" in str(e.value) and "--per-clip 10 would do" in str(e.value)
    assert "--size 5" in str(e.value)  # 2.5 of each: two rare ones and three others
    draw(items, 20, 0, per_clip=10), draw(items, 5, 0, per_clip=2)
    drawn = draw(items, 20, 0, per_clip=2, relax=True)
    assert drawn.after == {("common",): 18, ("rare",): 2} and drawn.off == {("common",): 8, ("rare",): -8}


def test_too_many_are_refused() -> None:
    items = [Item("x", str(i), ("a",)) for i in range(4)]
    with pytest.raises(DataError, match="cannot draw 5 of 4"):
        draw(items, 5, 0)
    with pytest.raises(DataError, match="only 2 expressions"):
        draw(items, 3, 0, per_clip=2, relax=True)


def test_bins_are_quantiles_and_equal_numbers_share_one() -> None:
    labels = binned([float(n) for n in range(30)], 3)
    assert Counter(labels) == {"0..9": 10, "10..19": 10, "20..29": 10}
    assert binned([5.0] * 6 + [9.0], 3) == ["5"] * 6 + ["9"]
    assert binned([7.0, 7.0], 3) == ["7", "7"]
    assert binned(["a", "b"], 3) == ["a", "b"]
