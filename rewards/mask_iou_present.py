"""A mask reward that empty masks cannot collect: only frames that show the target, or should not, count.

``mask_iou`` gives 1.5 for every frame where target and mask are both empty, so predicting nothing pays when the
target is seldom visible. Here such a frame is left out.
"""

from __future__ import annotations

import numpy as np

from rewards.mask_iou import FULL_STEP, iou_step
from rewards.registry import register_reward
from rewards.types import RewardInput, Variant
from rollout.errors import ProtocolError


@register_reward("mask_iou_present", of_masks=True)
def mask_iou_present(x: RewardInput, variant: Variant) -> float:
    """-1..1.5, for the last turn; not in the papers, both variants agree.

    With P the spatial frames where the target exists and N those where it does not but a mask was predicted (there
    the IoU is below 1, because an empty union counts 1.0):

    ``(sum over P of iou_step(iou) - |N|) / (|P| + |N|)``

    so a false positive costs as much as a missed target, and a frame that is rightly left empty weighs nothing. If
    P and N are both empty (no target in any spatial frame, none predicted) the reward is the full 1.5.
    Raises ProtocolError if the input does not say which frames the IoUs belong to.
    """
    if x.spatial_frames is None:
        raise ProtocolError("reward 'mask_iou_present' needs RewardInput.spatial_frames; pass the frame indices")
    if not x.turns:
        return -1.0
    ious = x.last_video_ious
    present = np.asarray(x.existence)[list(x.spatial_frames)] > 0
    false_positives = int((~present & (ious < 1.0)).sum())
    counted = int(present.sum()) + false_positives
    if counted == 0:
        return FULL_STEP
    return (sum(iou_step(float(iou)) for iou in ious[present]) - false_positives) / counted
