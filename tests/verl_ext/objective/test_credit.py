"""Credit by part on a worked group, and which rewards are of masks."""

from __future__ import annotations

import pytest
import torch

from rewards.compose import VIDEOSEG_O3_REWARDS
from rewards.registry import mask_reward_names
from verl_ext.objective.credit import credit_by_part, mask_reward, response_positions

EPS = 1e-4


def test_which_rewards_judge_masks() -> None:
    assert set(mask_reward_names()) & set(VIDEOSEG_O3_REWARDS) == {
        "mask_iou",
        "keyframe_vs_mask",
        "progressive_keyframe",
    }
    found = {"strict_format": 1.0, "mask_iou": 1.5, "keyframe_iou": 2.0, "progressive_keyframe": -1.0, "total": 3.5}
    weights = {"strict_format": 2.0, "mask_iou": 1.0, "progressive_keyframe": 0.5, "keyframe_iou": 0.0}
    assert mask_reward(found, weights) == 1.0


def test_a_worked_group() -> None:
    """Prompt a: totals 3, 1 (mean 2, std sqrt 2), masks 0, 2: text wants the first, [SEG] the second. Prompt b: equal
    masks, so no credit for its [SEG]."""
    s = 2**0.5 / 2
    whole = [s, -s, s, -s]
    rows = [torch.full((n,), a) for n, a in zip((5, 4, 3, 6), whole, strict=True)]
    rows[3][2] = 0.0  # a token of a user message
    positions = [[1, 4], [2], [], [5]]
    found = credit_by_part(rows, positions, torch.tensor([0.0, 2.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]), EPS)
    mask = 1 / (2**0.5 + EPS)
    assert found[0].tolist() == pytest.approx([s, -mask, s, s, -mask])
    assert found[1].tolist() == pytest.approx([-s, -s, mask, -s])
    assert found[2].tolist() == pytest.approx([s, s, s])
    assert found[3].tolist() == pytest.approx([-s, -s, 0.0, -s, -s, 0.0])
    assert rows[0].tolist() == pytest.approx([s] * 5), "what came in is left as it is"


def test_positions_are_those_of_the_response() -> None:
    episodes = [{"turns": [{"seg_positions": [12]}, {"seg_positions": [30, 31]}]}, {"turns": []}]
    assert response_positions(episodes, [10, 7]) == [[2, 20, 21], []]
