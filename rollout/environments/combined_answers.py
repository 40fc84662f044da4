"""Boxes and a mask in one answer: the single turn of timestamped frames, whose JSON also holds ``[SEG]``.

``{"keyframe_timestamp": int, "bbox_2d_list": [[x1, y1, x2, y2], …], "mask": "[SEG]"}``. Frames, seconds, reading and
stop reasons are those of `SingleTurnBoxes`; ``[SEG]`` is decoded on the keyframe that the answer names, and on the
frames that were shown. SAM 2 gets both prompts (`rewards.segmenter.agreement` says what if they contradict); if one is
missing, the other alone. An answer without either says that there is no target. Needs a policy with ``[SEG]``
(videoseg_o3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rollout.box_protocol import MISSING, parse_box_turn, read_box_reply
from rollout.control_text import SEG_TOKEN
from rollout.environment import register_environment
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.errors import DataError
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


def as_combined(reply: str, settings: CombinedSettings, side: float | None) -> str:
    """A well-formed box reply as a combined one: its boxes in the settings' units, and the key for the mask.

    Args:
        side: of the square in whose pixels the reply's boxes are, where that is known. Else they are of the published
            square, or, in a reply that has the key, in the settings' units.

    Raises:
        DataError: it is no well-formed answer with boxes, has one outside its square, or another mask than ``"[SEG]"``
            and null.
    """
    turn, found = parse_box_turn(reply), read_box_reply(reply)
    if turn.problem or found is None or turn.answer is None or found.boxes is None:
        what = turn.problem or "it has no answer"
        raise DataError(f"a reply is no answer with boxes ({what})")
    mask = (SEG_TOKEN if found.boxes else None) if found.mask is MISSING else found.mask
    if mask not in (SEG_TOKEN, None):
        raise DataError(f'a reply has mask {mask!r}, where "{SEG_TOKEN}" or null is expected')
    if side is None:
        side = BoxSettings.side if found.mask is MISSING else settings.span
    if not side > 0:
        raise DataError(f"a reply's boxes are in pixels of a square of side {side:g}")

    def edge(value: float) -> int:
        return min(max(round(value * settings.span / side), 0), settings.span)

    if outside := next((box for box in found.boxes if max(box[:2]) >= side or min(box[2:]) <= 0), None):
        raise DataError(f"a reply's box {outside} lies outside its square of side {side:g}")
    boxes = [[edge(value) for value in box] for box in found.boxes]
    answer = {"keyframe_timestamp": found.timestamp, "bbox_2d_list": boxes, "mask": mask}
    return f"<think>{turn.think}</think><answer>{json.dumps(answer)}</answer>"
