"""Boxes and a mask in one answer: the single turn of timestamped frames, whose JSON also holds ``[SEG]``.

``{"keyframe_timestamp": int, "bbox_2d_list": [[x1, y1, x2, y2], …], "mask": "[SEG]"}``. Frames, seconds, reading and
stop reasons are those of `SingleTurnBoxes`; ``[SEG]`` is decoded on the keyframe that the answer names, and on the
frames that were shown. SAM 2 gets both prompts (`rewards.segmenter.agreement` says what if they contradict); if one is
missing, the other alone. An answer without either says that there is no target. Needs a policy with ``[SEG]``
(videoseg_o3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rollout.environment import register_environment
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.prompts import BoxPromptSet, CombinedPromptSet
from rollout.types import Sample


@dataclass(frozen=True)
class CombinedSettings(BoxSettings):
    """As of boxes, asked in other words."""

    asked: ClassVar[type[BoxPromptSet]] = CombinedPromptSet


@register_environment("combined_answers")
class CombinedAnswers(SingleTurnBoxes):
    """One episode of one turn; see the module."""

    answers = "both"

    @classmethod
    def build(cls, sample: Sample, settings: Mapping[str, Any], factor: int) -> CombinedAnswers:
        return cls(sample, CombinedSettings.from_dict(settings), factor)
