"""Whatever the policy writes, rewards are finite numbers in their ranges and never raise."""

from __future__ import annotations

import json
import math
import random

import pytest

from rewards import (
    VEASON_REWARDS,
    BoxRewardInput,
    CombinedRewardInput,
    RewardInput,
    Variant,
    compute_rewards,
    reward_names,
)
from rewards.registry import get_reward
from rewards.types import PropagatedScores, Verification
from rollout.types import Verdict
from tests.rewards.conftest import turn_text

TURN_REWARDS = [name for name in reward_names() if RewardInput in get_reward(name).input_types]
LOWEST, HIGHEST = -1.0, 2.5
PIECES = [
    "<think>", "</think>", "<select>", "</select>", "<answer>", "</answer>", "<VTG>", "</VTG>", "<RefSeg>", "</RefSeg>",
    "[SEG]", "<|im_end|>", '{"start": 1, "end": 3, "keyframe": 2}', "{'start': 1}", '{"start": 1e999, "end": null}',
    '{"start": true, "end": "3", "keyframe": [2]}', "NaN", "\x00", "\ud800", "🎬", "Step 1", "\n", "[" * 300, "-" * 400,
    "9" * 5000, '{"keyframe_timestamp": 3, "bbox_2d_list": [[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 3]]}',
    '{"keyframe_timestamp": 3, "bbox_2d_list": [[-1e308, 1e308, 1e308, 1e308]]}', '{"keyframe_timestamp": 3,',
    '"bbox_2d_list": [[1, 2, Infinity, NaN]]}', '{"keyframe_timestamp": "3", "bbox_2d_list": {}}', "__import__('os')",
    '{"keyframe_timestamp": ' + "9" * 400 + "}",
    '{"keyframe_timestamp": 3, "bbox_2d_list": [[0,0,' + "9" * 400 + ",9]]}",
]  # fmt: skip
VARIANTS: tuple[Variant, ...] = ("intended", "released")


def broken(rng: random.Random, text: str) -> str:
    """``text`` with a few characters cut, doubled or replaced."""
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(["", text[at : at + 5], *PIECES, chr(rng.randrange(32, 0x2FF))]) + text[at + 1 :]
    return text


def texts(seed: int, well_formed: str, count: int = 150) -> list[str]:
    rng = random.Random(seed)
    soups = ["".join(rng.choices(PIECES, k=rng.randint(0, 12))) for _ in range(count)]
    return soups + [broken(rng, well_formed) for _ in range(count)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_turn_rewards_never_raise(seed: int, variant: Variant) -> None:
    rng = random.Random(seed)
    for text in texts(seed, turn_text()):
        turns = [text] * rng.randint(1, 3)
        frames = rng.randint(1, 12)
        scores = PropagatedScores([rng.random()], [rng.random()], [True], has_target=rng.random() < 0.5)
        x = RewardInput(
            turns=turns,
            existence=[rng.randint(0, 1) for _ in range(frames)],
            video_ious=[[rng.random() for _ in range(2)] for _ in turns],
            keyframe_ious=[rng.random() for _ in turns],
            spatial_frames=[0, frames - 1],
            propagated=scores,
            verification=Verification(scores, rng.choice([None, *Verdict])),
        )
        for name, value in compute_rewards(x, TURN_REWARDS, variant).items():
            assert math.isfinite(value), (name, text)
            assert name == "total" or LOWEST <= value <= HIGHEST, (name, value, text)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_box_rewards_never_raise(seed: int, variant: Variant) -> None:
    body = json.dumps({"keyframe_timestamp": 3, "bbox_2d_list": [[1, 2, 30, 40], [5, 5, 9, 9]]})
    for text in texts(seed, f"<think>x</think><answer>{body}</answer>"):
        for shown in (text, f"<think></think><answer>{text}</answer>"):
            x = BoxRewardInput(
                shown, [3, 8], [[[1, 2, 28, 44], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 2], [9, 0], frame_ious=[0.5, 1.0]
            )
            both = CombinedRewardInput(RewardInput([shown], [1, 0], [[0.5]], [0.5]), x)
            assert 0 <= compute_rewards(both, ["combined_format"], variant)["combined_format"] <= 3.0
            for name, value in compute_rewards(x, VEASON_REWARDS, variant).items():
                highest = 2.0 if name == "veason_format" else 5.0 if name == "total" else 1.0
                assert 0 <= value <= highest, (name, value, shown)
