"""GRPO advantages with the published epsilon (VideoSEG-O3, SPEC 2.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

ADVANTAGE_EPSILON = 1e-4


@register_adv_est("videoseg_grpo")
def group_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray[Any, Any],
    config: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A = (r - mean_group) / (std_group + 1e-4), the same on every response token of every turn.

    Args:
        token_level_rewards: (B, L) rewards, whose row sum is the rollout's reward r.
        response_mask: (B, L) 1 on sampled tokens.
        index: (B,) the group (prompt) of each rollout.

    Returns:
        (advantages, returns), both (B, L). A group of one has no spread and gets 0.
    """
    with torch.no_grad():
        rewards = token_level_rewards.sum(dim=-1)
        advantage = torch.zeros_like(rewards)
        for group in np.unique(index):
            rows = torch.as_tensor(np.flatnonzero(index == group), device=rewards.device)
            r = rewards[rows]
            if len(rows) > 1:
                advantage[rows] = (r - r.mean()) / (r.std() + ADVANTAGE_EPSILON)
        out = advantage.unsqueeze(-1) * response_mask
    return out, out
