"""Was it right to stop, or to ask for more (SPEC 2.5, offered beside the seven)."""

from __future__ import annotations

from rewards.parsing import action_blocks
from rewards.registry import register_reward
from rewards.types import RewardInput, Variant
from rollout.types import Action


@register_reward("termination")
def termination(x: RewardInput, variant: Variant) -> float:
    """+1, 0 or -1 from the last turn's action and its keyframe IoU.

    Answering: +1 above 0.8, -1 below 0.2. Ending on a select: +1 below 0.5. Anything else: 0. If a turn has several
    action blocks the last one counts; released: any answer does.
    """
    actions, iou = [block.action for block in action_blocks(x.last_text)], x.last_keyframe_iou
    if not actions:
        return 0.0
    answered = Action.ANSWER in actions if variant == "released" else actions[-1] is Action.ANSWER
    if not answered:
        return 1.0 if iou < 0.5 else 0.0
    return 1.0 if iou > 0.8 else -1.0 if iou < 0.2 else 0.0
