"""+1 if every turn keeps to the protocol, else -1 (SPEC 2.5)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewards.parsing import END_OF_TURN, ActionBlock
from rewards.registry import register_reward
from rewards.types import RewardInput, Variant
from rollout.control_text import SEG_TOKEN
from rollout.protocol import VTG_KEYS, parse_turn
from rollout.reading import load_json
from rollout.types import Action

_TURN = re.compile(r"<think>.*?</think>\s*<(?P<tag>select|answer)>(?P<body>.*?)</(?P=tag)>", re.DOTALL)
_TAG = re.compile(r"</?(?:think|select|answer)>")


def _released_turn(text: str) -> bool:
    """Think, then an action with JSON that holds the three keys and a mask, somewhere in the text."""
    found = _TURN.search(text)
    block = ActionBlock(Action(found["tag"]), found["body"]) if found else None
    if block is None or block.vtg is None or not block.has_seg:
        return False
    vtg = load_json(block.vtg, strict=False)
    return isinstance(vtg, dict) and all(key in vtg for key in VTG_KEYS)


def _exact_turn(text: str, action: Action) -> bool:
    """What the environment reads without a complaint as ``action``, with one ``[SEG]`` in all and no tag in prose."""
    text = text.strip().removesuffix(END_OF_TURN).strip()
    turn = parse_turn(text)
    if turn.problem is not None or turn.action is not action:
        return False
    return text.count(SEG_TOKEN) == 1 and not _TAG.search(turn.think or "")


@register_reward("strict_format")
def strict_format(x: RewardInput, variant: Variant) -> float:
    """+1 or -1.

    intended: every turn is exactly ``<think>…</think>`` and one action block with one strict-JSON VTG of three
    integers and one RefSeg, with one ``[SEG]`` in the turn; every turn but the last selects, the last answers.
    released: every turn holds such parts somewhere, the values unread, in any order of select and answer.
    """
    return 1.0 if keeps_protocol(x.turns, variant) else -1.0


def keeps_protocol(turns: Sequence[str], variant: Variant = "intended") -> bool:
    """Whether a dialogue's assistant messages earn :func:`strict_format`; never without a turn."""
    if not turns:
        return False
    if variant == "released":
        return all(_released_turn(text) for text in turns)
    actions = [Action.SELECT] * (len(turns) - 1) + [Action.ANSWER]
    return all(_exact_turn(text, action) for text, action in zip(turns, actions, strict=True))
