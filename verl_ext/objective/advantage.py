"""GRPO advantages with the recipe's epsilon (VideoSEG-O3, SPEC 2.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

from verl_ext.recipe.context import active_recipe
from verl_ext.seg.losses import group_advantages


@register_adv_est("videoseg_grpo")
def group_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray[Any, Any],
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A = (r - mean_group) / (std_group + objective.advantage_eps), the same on every response token of every turn.

    Args:
        token_level_rewards: (B, L) rewards, whose row sum is the rollout's reward r.
        response_mask: (B, L) 1 on sampled tokens.
        index: (B,) the group (prompt) of each rollout.

    Returns:
        (advantages, returns), both (B, L). A group of one, or of equal rewards, has no spread and gets exactly 0.
    """
    with torch.no_grad():
        groups = torch.from_numpy(np.unique(index, return_inverse=True)[1])
        rewards = token_level_rewards.sum(dim=-1)
        advantage = group_advantages(rewards, groups, active_recipe().objective.advantage_eps)
        out = advantage.unsqueeze(-1) * response_mask
    return out, out
