"""Composition, the registry and what the inputs refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rewards import (
    VEASON_REWARDS,
    VIDEOSEG_O3_REWARDS,
    BoxRewardInput,
    RewardInput,
    compute_rewards,
    get_reward,
    register_reward,
    reward_names,
)
from rollout.errors import ProtocolError, RecipeError

Build = Callable[..., RewardInput]
Turn = Callable[..., str]
ROOT = Path(__file__).parents[2]


def test_ground_truth_earns_full_marks(rollout: Build, turn: Turn) -> None:
    """Every reward at its top value, except the two that pay an *improvement* over already perfect masks."""
    x = rollout(turn(1, 3, 2, "select"), turn(1, 3, 2), existence=(0, 1, 1, 0))
    assert compute_rewards(x, VIDEOSEG_O3_REWARDS) == {
        "strict_format": 1.0,
        "step_format": 1.0,
        "interval": 0.5,
        "keyframe_hit": 1.0,
        "mask_iou": 1.5,
        "keyframe_vs_mask": 0.0,
        "progressive_keyframe": 0.0,
        "total": 5.0,
    }


def test_total_is_the_weighted_sum_of_unweighted_values(rollout: Build) -> None:
    x = rollout("no tags", video=[[0.5]])
    out = compute_rewards(x, {"strict_format": 2.0, "mask_iou": -1.0, "interval": 0.0})
    assert out == pytest.approx({"strict_format": -1.0, "mask_iou": 0.3, "interval": -0.5, "total": -2.3})
    assert compute_rewards(x, "strict_format") == {"strict_format": -1.0, "total": -1.0}


def test_variant_reaches_the_rewards(rollout: Build, turn: Turn) -> None:
    x = rollout(turn(tag="select"))
    assert compute_rewards(x, ["strict_format"])["total"] == -1
    assert compute_rewards(x, ["strict_format"], "released")["total"] == 1


def test_recipe_mistakes_speak(rollout: Build) -> None:
    x = rollout("a")
    with pytest.raises(RecipeError, match=r"did you mean 'mask_iou'.*keyframe_hit"):
        compute_rewards(x, ["mask_iuo"])
    with pytest.raises(RecipeError, match="no rewards"):
        compute_rewards(x, {})
    with pytest.raises(RecipeError, match="'mask_iou' has weight nan"):
        compute_rewards(x, {"mask_iou": float("nan")})
    with pytest.raises(RecipeError, match="'veason_format' scores BoxRewardInput, found RewardInput"):
        compute_rewards(x, ["mask_iou", "veason_format"])
    with pytest.raises(RecipeError, match="variant 'paper'"):
        compute_rewards(x, ["mask_iou"], "paper")  # type: ignore[arg-type]


def test_names_are_found_and_unique() -> None:
    assert set(VIDEOSEG_O3_REWARDS) | set(VEASON_REWARDS) <= set(reward_names())
    assert {"keyframe_iou", "termination", "temporal_iou", "mask_iou_present"} <= set(reward_names())
    with pytest.raises(RecipeError, match=r"'interval' is registered in rewards\.interval and in "):
        register_reward("interval")(lambda x, variant: 0.0)
    with pytest.raises(RecipeError, match="total"):
        register_reward("total")(lambda x, variant: 0.0)
    assert get_reward("interval").module == "rewards.interval"


NEW_REWARD = """
from rewards.registry import register_reward
from rewards.types import RewardInput, Variant


@register_reward("brevity")
def brevity(x: RewardInput, variant: Variant) -> float:
    return -len(x.last_text) / 1000
"""
PROBE = """
import sys
from rewards import RewardInput, compute_rewards, reward_names
assert "brevity" in reward_names()
x = RewardInput(["x" * 500], [1], [[1.0]], [1.0])
assert compute_rewards(x, ["brevity"])["total"] == -0.5
heavy = {"torch", "ray", "verl", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_new_file_is_a_new_reward_and_nothing_heavy_is_loaded(tmp_path: Path) -> None:
    for package in ("rewards", "rollout"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "rewards" / "brevity.py").write_text(NEW_REWARD)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keyframe_ious": []}, "1 turns, but 1 lists of video IoUs and 0 keyframe IoUs"),
        ({"existence": []}, "existence is empty"),
        ({"existence": [0, 2]}, "other than 0 and 1"),
        ({"video_ious": [[]]}, "turn 0 has no video IoUs"),
        ({"video_ious": [[0.5, float("nan")]]}, "turn 0, entry 1: found nan"),
        ({"keyframe_ious": [-0.5]}, "keyframe IoUs, entry 0: found -0.5"),
        ({"keyframe_ious": [1.5]}, "keyframe IoUs, entry 0: found 1.5"),
        ({"spatial_frames": [0, 1]}, "turn 0 has 1 video IoUs for 2 spatial frames"),
        ({"spatial_frames": [5]}, "spatial frame 5 lies outside 0..1"),
    ],
)
def test_our_own_mistakes_raise(changes: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"turns": ["a"], "existence": [1, 0], "video_ious": [[0.5]], "keyframe_ious": [0.5]}
    with pytest.raises(ProtocolError, match=message):
        RewardInput(**{**good, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestamps": [], "gt_boxes": [], "areas": []}, "no sampled frame"),
        ({"areas": [1, 2]}, "1 timestamps, but boxes for 1 frames and 2 areas"),
        ({"gt_boxes": [[[1, 2, 3]]]}, "sampled frame 0 is not 4 numbers"),
        ({"frame_ious": [0.1, 0.2]}, "2 frame IoUs for 1 sampled frames"),
    ],
)
def test_our_own_mistakes_raise_for_boxes(changes: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"text": "a", "timestamps": [1], "gt_boxes": [[[0, 0, 1, 1]]], "areas": [4]}
    with pytest.raises(ProtocolError, match=message):
        BoxRewardInput(**{**good, **changes})  # type: ignore[arg-type]
