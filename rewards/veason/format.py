"""Is the box reply well-formed (SPEC 3)."""

from __future__ import annotations

import re

from rewards.registry import register_reward
from rewards.types import BoxRewardInput, Variant
from rewards.veason.reply import is_box, read_reply

_REPLY = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


@register_reward("veason_format", on=BoxRewardInput)
def veason_format(x: BoxRewardInput, variant: Variant) -> float:
    """0..2: 1 if the whole text is think + answer, plus the share of boxes that are 4 numbers.

    The share needs an integer timestamp and a list of boxes; an empty list has share 0. intended: booleans and
    numbers that are not finite do not count.
    """
    shape = 1.0 if _REPLY.fullmatch(x.text) else 0.0
    reply = read_reply(x.text, variant)
    if reply is None or not reply.boxes or not isinstance(reply.timestamp, int):
        return shape
    if variant == "intended" and isinstance(reply.timestamp, bool):
        return shape
    return shape + sum(is_box(value, variant) for value in reply.boxes) / len(reply.boxes)
