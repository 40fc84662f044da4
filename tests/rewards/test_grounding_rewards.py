"""interval, keyframe_hit and temporal_iou by numbers. Existence is 0 0 1 1 1 1 0 0 unless said otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rewards import RewardInput, get_reward

Build = Callable[..., RewardInput]
Turn = Callable[..., str]
EXISTENCE = (0, 0, 1, 1, 1, 1, 0, 0)
interval, keyframe_hit, temporal_iou = map(get_reward, ("interval", "keyframe_hit", "temporal_iou"))


@pytest.mark.parametrize(
    ("start", "end", "intended", "released"),
    [
        (2, 6, 0.5, 0.5),
        (2, 3, 0.5, 0.5),  # one frame earns full marks: it is a precision
        (1, 6, 0.4, 0.4),
        (0, 4, 0.25, -0.5),  # exactly one half
        (0, 3, -0.5, -0.5),
        (4, 4, -0.5, -0.5),
        (5, 2, -0.5, -0.5),
        (-9, 99, 0.25, -0.5),  # clamped to the whole clip
        (8, 12, -0.5, -0.5),  # clamped to nothing
    ],
)
def test_interval(rollout: Build, turn: Turn, start: int, end: int, intended: float, released: float) -> None:
    x = rollout(turn(start, end), existence=EXISTENCE)
    assert interval(x) == pytest.approx(intended)
    assert interval(x, "released") == pytest.approx(released, abs=1e-5)


def test_released_half_passes_where_float32_absorbs_the_epsilon(rollout: Build, turn: Turn) -> None:
    x = rollout(turn(0, 40), existence=[1] * 20 + [0] * 20)
    assert interval(x, "released") == pytest.approx(0.25)


def test_interval_of_a_clip_without_target(rollout: Build, turn: Turn) -> None:
    x = rollout(turn(0, 4), existence=[0] * 8)
    assert interval(x) == 0.5 and interval(x, "released") == 0.5
    assert temporal_iou(x) == 0  # the trap that tIoU closes
    assert interval(rollout(turn(4, 4), existence=[0] * 8)) == -0.5


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(2, 5, 1.0), (2, 2, 0.25), (0, 7, 0.5), (4, 9, 1 / 3), (6, 7, 0.0), (5, 2, 0.0), (-5, -1, 0.0)],
)
def test_temporal_iou_includes_both_ends(rollout: Build, turn: Turn, start: int, end: int, expected: float) -> None:
    assert temporal_iou(rollout(turn(start, end), existence=EXISTENCE)) == pytest.approx(expected)


@pytest.mark.parametrize(("keyframe", "expected"), [(2, 1), (5, 1), (6, -1), (1, -1), (-3, -1), (99, -1)])
def test_keyframe_hit(rollout: Build, turn: Turn, keyframe: int, expected: int) -> None:
    x = rollout(turn(keyframe=keyframe), existence=EXISTENCE)
    assert keyframe_hit(x) == keyframe_hit(x, "released") == expected


def test_keyframe_is_clamped_into_the_clip(rollout: Build, turn: Turn) -> None:
    assert keyframe_hit(rollout(turn(keyframe=-3), existence=(1, 0, 0))) == 1
    assert keyframe_hit(rollout(turn(keyframe=99), existence=(0, 0, 1))) == 1


def test_only_the_last_turn_and_its_last_action_count(rollout: Build, turn: Turn) -> None:
    good, bad = turn(2, 6, 3), turn(6, 8, 7)
    assert interval(rollout(bad, good, existence=EXISTENCE)) == 0.5
    assert interval(rollout(good, bad, existence=EXISTENCE)) == -0.5
    assert keyframe_hit(rollout(bad + good, existence=EXISTENCE)) == 1


@pytest.mark.parametrize(
    ("old", "new", "intended", "released"),
    [
        ('"start": 2, "end": 6', "'start': 2, 'end': 6", -0.5, 0.5),  # a Python literal
        ('"start": 2', '"start": "2"', -0.5, 0.5),
        ('"start": 2', '"start": 2.7', -0.5, 0.5),
        ('"start": 2, ', "", -0.5, 0.2 / 3 + 0.8 / 3),  # a missing key reads as 0: 4 of 6
        ('"start": 2', '"start": null', -0.5, -0.5),
        ('"start": 2', '"start": 1e999', -0.5, -0.5),
        ('"start": 2', '"start": [2]', -0.5, -0.5),
        ("{", "[{", -0.5, -0.5),
        ("<VTG>", "", -0.5, -0.5),
    ],
)
def test_unreadable_indices(rollout: Build, turn: Turn, old: str, new: str, intended: float, released: float) -> None:
    text = turn(2, 6).replace(old, new)
    x = rollout(text, existence=EXISTENCE)
    assert interval(x) == intended
    assert interval(x, "released") == pytest.approx(released, abs=1e-5)


def test_missing_keyframe_is_a_miss_unless_released(rollout: Build, turn: Turn) -> None:
    x = rollout(turn(2, 6).replace(', "keyframe": 1', ""), existence=(1, 0, 0, 0))
    assert keyframe_hit(x) == -1
    assert keyframe_hit(x, "released") == 1  # frame 0
    assert interval(x) == -0.5  # its own keys are readable, but 2..4 misses
