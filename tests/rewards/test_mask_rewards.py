"""Rewards on IoUs: their steps, ramps and caps, and where the variants differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rewards import RewardInput, get_reward
from rollout.errors import ProtocolError

Build = Callable[..., RewardInput]
Turn = Callable[..., str]


@pytest.mark.parametrize(
    ("ious", "expected"),
    [
        ([0.2], -1),
        ([0.21], 0),
        ([0.4], 0),
        ([0.5], 0.3),
        ([0.9], 1.5),
        ([1.0], 1.5),
        ([0.0, 0.3, 0.6, 1.0], (-1 + 0 + 0.6 + 1.5) / 4),
    ],
)
def test_mask_iou(rollout: Build, ious: list[float], expected: float) -> None:
    x = rollout("a", "b", video=[[1.0] * len(ious), ious])
    assert get_reward("mask_iou")(x) == pytest.approx(expected)
    assert get_reward("mask_iou")(x, "released") == pytest.approx(expected)


@pytest.mark.parametrize(("iou", "expected"), [(0.2, -1), (0.3, 0), (0.4, 0), (0.6, 1.0), (0.9, 2.5), (1.0, 2.5)])
def test_keyframe_iou(rollout: Build, iou: float, expected: float) -> None:
    assert get_reward("keyframe_iou")(rollout("a", keyframe=[iou])) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gain", "intended", "released"),
    [(-0.5, -1, -1), (-0.06, -1, -1), (-0.04, 0, 0), (0.09, 0, 0), (0.15, 0.5, 0.5), (0.2, 0.5, 0.5),
     (0.3, 1.0, 0.5), (0.45, 1.75, 0.5), (0.5, 2.0, 0.5)],
)  # fmt: skip
def test_keyframe_vs_mask(rollout: Build, gain: float, intended: float, released: float) -> None:
    reward = get_reward("keyframe_vs_mask")
    x = rollout("a", "b", video=[[0.0, 0.0], [0.4, 0.6]], keyframe=[0.0, 0.5 + gain])
    assert reward(x) == pytest.approx(intended)
    assert reward(x, "released") == pytest.approx(released)
    assert reward(rollout("a", video=[[0.5]], keyframe=[0.5 + gain])) == 0


@pytest.mark.parametrize(
    ("gain", "intended", "released"),
    [(-0.2, -1, -1), (-0.06, -1, -1), (-0.04, 0, 0), (0.04, 0, 0), (0.08, 0.5, 0.5), (0.15, 1.0, 0.5),
     (0.2, 1.5, 0.5), (0.25, 2.0, 0.5), (0.5, 2.0, 0.5)],
)  # fmt: skip
def test_progressive_keyframe(rollout: Build, gain: float, intended: float, released: float) -> None:
    reward = get_reward("progressive_keyframe")
    x = rollout("a", "b", "c", keyframe=[0.4, 0.3, 0.4 + gain])  # the best earlier one is the first
    assert reward(x) == pytest.approx(intended)
    assert reward(x, "released") == pytest.approx(released)
    assert reward(rollout("a", keyframe=[0.9])) == 0


@pytest.mark.parametrize(
    ("tag", "iou", "expected"),
    [("answer", 0.81, 1), ("answer", 0.8, 0), ("answer", 0.2, 0), ("answer", 0.19, -1),
     ("select", 0.49, 1), ("select", 0.5, 0), ("select", 0.9, 0)],
)  # fmt: skip
def test_termination(rollout: Build, turn: Turn, tag: str, iou: float, expected: float) -> None:
    x = rollout(turn(tag=tag), keyframe=[iou])
    assert get_reward("termination")(x) == get_reward("termination")(x, "released") == expected


def test_termination_without_or_with_several_actions(rollout: Build, turn: Turn) -> None:
    reward = get_reward("termination")
    assert reward(rollout("<answer>", keyframe=[0.9])) == 0
    both = rollout(turn(tag="answer") + turn(tag="select"), keyframe=[0.9])
    assert reward(both) == 0
    assert reward(both, "released") == 1


class TestPresenceWeighted:
    """``mask_iou_present`` on frames 0..3, the target visible in frame 0 only."""

    EXISTENCE = (1, 0, 0, 0)

    def score(self, rollout: Build, ious: list[float], existence: tuple[int, ...] = EXISTENCE) -> float:
        return get_reward("mask_iou_present")(rollout("a", existence=existence, video=[ious], spatial=range(len(ious))))

    def test_empty_masks_no_longer_pay(self, rollout: Build) -> None:
        empty = [0.0, 1.0, 1.0, 1.0]  # a miss where visible, a both-empty 1.0 elsewhere
        assert get_reward("mask_iou")(rollout("a", video=[empty])) == pytest.approx(0.875)
        assert self.score(rollout, empty) == -1

    def test_a_frame_rightly_left_empty_weighs_nothing(self, rollout: Build) -> None:
        assert self.score(rollout, [0.6, 1.0, 1.0, 1.0]) == pytest.approx(0.6)

    def test_false_positives_cost_one_each(self, rollout: Build) -> None:
        assert self.score(rollout, [0.6, 0.0, 0.0, 1.0]) == pytest.approx((0.6 - 2) / 3)

    def test_clip_without_target(self, rollout: Build) -> None:
        assert self.score(rollout, [1.0, 1.0], (0, 0)) == 1.5
        assert self.score(rollout, [1.0, 0.0], (0, 0)) == -1

    def test_needs_the_frames(self, rollout: Build) -> None:
        with pytest.raises(ProtocolError, match="spatial_frames"):
            get_reward("mask_iou_present")(rollout("a"))
