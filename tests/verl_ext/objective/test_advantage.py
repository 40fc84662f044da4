"""Group-relative advantages as verl's estimator."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

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


@pytest.mark.parametrize("eps", ["0.0001", "0.0"])
@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 16])
def test_equal_rewards_have_exactly_none_whatever_their_value(
    size: int, eps: str, tiny_recipe: Callable[..., Recipe], activate: Callable[[Recipe], Recipe]
) -> None:
    """The mean of n equal float32 numbers is often another number: 0.005 at n = 8, and 0 / 0 without an epsilon."""
    activate(tiny_recipe("grpo", f"objective.advantage_eps={eps}"))
    values = torch.linspace(-3.3, 3.3, 41)
    rewards = values.repeat_interleave(size)[:, None]
    index = np.repeat(np.arange(len(values)), size)
    advantages, _ = group_advantage(rewards, torch.ones_like(rewards), index)
    assert torch.equal(advantages, torch.zeros_like(rewards))


def test_the_same_parts_in_another_order_are_equal_rewards() -> None:
    parts = torch.tensor([0.1, 0.7, -0.4, 1.3, 0.9])
    sums = [sum((parts[i] for i in order), torch.tensor(0.0)) for order in permutations(range(5))]
    rewards = torch.stack(sums)
    assert len(set(rewards.tolist())) > 1  # else this tests nothing
    assert torch.equal(group_advantages(rewards, torch.zeros(len(rewards)), 0.0), torch.zeros_like(rewards))


def test_a_small_difference_is_still_one() -> None:
    rewards = torch.tensor([2.0, 2.0, 2.0, 2.0001])
    found = group_advantages(rewards, torch.zeros(4), 0.0)
    assert found.tolist() == pytest.approx([-0.5, -0.5, -0.5, 1.5], rel=1e-2)


def test_a_reward_that_is_no_number_is_not_hidden() -> None:
    assert not group_advantages(torch.tensor([float("nan"), 1.0]), torch.zeros(2)).isfinite().any()


def test_epsilon_comes_from_the_recipe(
    tiny_recipe: Callable[..., Recipe], activate: Callable[[Recipe], Recipe]
) -> None:
    rewards, mask = scores()
    activate(tiny_recipe("grpo", "objective.advantage_eps=2.0"))
    advantages, _ = group_advantage(rewards, mask, UIDS)
    assert advantages[1, 0] == pytest.approx(-1.5 / (4.5**0.5 + 2.0))
