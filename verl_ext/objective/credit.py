"""Credit by part: ``[SEG]`` tokens get the group advantage of the mask rewards alone, all others that of all rewards.

The text keeps the mask rewards: only they know that a keyframe was good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rewards.registry import mask_reward_names
from verl_ext.seg.losses import group_advantages


def mask_reward(rewards: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The part of a rollout's weighted sum that comes from rewards of masks."""
    return sum(weights[name] * rewards[name] for name in mask_reward_names() if name in weights)


def response_positions(episodes: Sequence[Mapping[str, Any]], prompts: Sequence[int]) -> list[list[int]]:
    """Per rollout, its ``[SEG]`` tokens' places in the response; ``prompts``: tokens of each first prompt."""
    return [
        [int(p) - start for turn in episode["turns"] for p in turn["seg_positions"]]
        for episode, start in zip(episodes, prompts, strict=True)
    ]


def credit_by_part(
    advantages: Sequence[Tensor],
    positions: Sequence[Sequence[int]],
    mask_rewards: Tensor,
    groups: Tensor,
    eps: float,
) -> list[Tensor]:
    """Per rollout its (L,) advantages with those of its ``[SEG]`` tokens replaced.

    Args:
        advantages: per rollout, (L,) of its response.
        positions: per rollout, the ``[SEG]`` tokens' places in its response.
        mask_rewards: (B,), see `mask_reward`.
        groups: (B,) the prompt of each rollout.
    """
    of_masks = group_advantages(mask_rewards, groups, eps)
    out = []
    for row, tokens, value in zip(advantages, positions, of_masks, strict=True):
        changed = row.clone()
        changed[torch.as_tensor(list(tokens), dtype=torch.long)] = value.to(row.dtype)
        out.append(changed)
    return out
