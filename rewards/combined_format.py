"""Is an answer with boxes and ``[SEG]`` well-formed."""

from __future__ import annotations

from rewards.registry import register_reward
from rewards.types import CombinedRewardInput, Variant
from rewards.veason.format import veason_format
from rollout.box_protocol import BoxReply, read_box_reply
from rollout.control_text import SEG_TOKEN


@register_reward("combined_format", on=CombinedRewardInput)
def combined_format(x: CombinedRewardInput, variant: Variant) -> float:
    """0..3: ``veason_format`` of the boxes, plus 1 if the answer's ``mask`` is ``[SEG]`` and that stands nowhere else.

    An answer that there is no target, ``"bbox_2d_list": [], "mask": null``, gets 1 for each of the two as well. Not in
    the papers; both variants agree but for what ``veason_format`` says.
    """
    form, text = veason_format(x.boxes, variant), x.boxes.text
    found = read_box_reply(text) or BoxReply()
    if found.says_nothing and SEG_TOKEN not in text:
        return form + 2.0
    return form + float(found.mask == SEG_TOKEN and text.count(SEG_TOKEN) == 1)
