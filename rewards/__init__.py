"""Rewards: pure functions from a rollout's texts and IoUs to numbers. One file a reward, found by itself.

>>> from rewards import RewardInput, compute_rewards
>>> x = RewardInput(turns=["no tags"], existence=[0, 1], video_ious=[[0.5]], keyframe_ious=[0.5])
>>> compute_rewards(x, ["strict_format", "mask_iou"])["strict_format"]
-1.0

The segmenter that makes the IoUs is ``rewards.segmenter`` (torch), its worker pool ``rewards.pool`` (Ray); importing
this package loads neither.
"""

from rewards.compose import VEASON_REWARDS, VIDEOSEG_O3_REWARDS, compute_rewards
from rewards.registry import Reward, get_reward, register_reward, reward_names
from rewards.types import Box, BoxRewardInput, CombinedRewardInput, RewardInput, Variant

__all__ = [
    "VEASON_REWARDS",
    "VIDEOSEG_O3_REWARDS",
    "Box",
    "BoxRewardInput",
    "CombinedRewardInput",
    "Reward",
    "RewardInput",
    "Variant",
    "compute_rewards",
    "get_reward",
    "register_reward",
    "reward_names",
]
