"""Group-relative advantages as verl's estimator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

from verl_ext.objective.advantage import group_advantage
from verl_ext.recipe import Recipe
from verl_ext.seg.losses import group_advantages

REWARDS = torch.tensor([1.0, 2.0, 4.0, 5.0, 5.0, 7.0])
UIDS = np.array(["b", "a", "b", "a", "c", "b"], dtype=object)


def scores() -> tuple[torch.Tensor, torch.Tensor]:
    """(6, 4) rewards at the last token, and masks with holes (user messages)."""
    rewards = torch.zeros(6, 4)
    rewards[:, -1] = REWARDS
    mask = torch.tensor([[1, 0, 1, 1]] * 6)
    return rewards, mask


@pytest.fixture(autouse=True)
def active(tiny_recipe: Callable[..., Recipe], activate: Callable[[Recipe], Recipe]) -> None:
    activate(tiny_recipe("grpo"))


def test_verl_finds_it_by_the_name_that_recipes_render() -> None:
    assert get_adv_estimator_fn("videoseg_grpo") is group_advantage


def test_equals_the_plain_function_on_every_sampled_token() -> None:
    rewards, mask = scores()
    advantages, returns = group_advantage(rewards, mask, UIDS)
    plain = group_advantages(REWARDS, torch.tensor([1, 0, 1, 0, 2, 1]))
    assert torch.equal(advantages, plain[:, None] * mask)
    assert torch.equal(returns, advantages)


def test_by_hand() -> None:
    rewards, mask = scores()
    advantages, _ = group_advantage(rewards, mask, UIDS)
    assert advantages[1, 0] == pytest.approx(-1.5 / (4.5**0.5 + 1e-4))  # group a: 2 and 5
    assert advantages[4].tolist() == [0.0] * 4  # a group of one
    assert advantages[:, 1].tolist() == [0.0] * 6  # a masked token


def test_equal_rewards_have_no_advantage() -> None:
    advantages, _ = group_advantage(torch.ones(4, 2), torch.ones(4, 2), np.array([0, 0, 1, 1]))
    assert advantages.abs().max() == 0


def test_epsilon_comes_from_the_recipe(
    tiny_recipe: Callable[..., Recipe], activate: Callable[[Recipe], Recipe]
) -> None:
    rewards, mask = scores()
    activate(tiny_recipe("grpo", "objective.advantage_eps=2.0"))
    advantages, _ = group_advantage(rewards, mask, UIDS)
    assert advantages[1, 0] == pytest.approx(-1.5 / (4.5**0.5 + 2.0))
