"""+1 if every turn keeps to the protocol, else -1 (SPEC 2.5)."""

from __future__ import annotations

import re

from rewards.parsing import END_OF_TURN, SEG_TOKEN, ActionBlock, as_index, load_json
from rewards.registry import register_reward
from rewards.types import RewardInput, Variant
from rollout.types import Action

_KEYS = ("start", "end", "keyframe")
_TURN = re.compile(r"<think>(?P<think>.*?)</think>\s*<(?P<tag>select|answer)>(?P<body>.*?)</(?P=tag)>", re.DOTALL)
_BODY = re.compile(r"\s*<VTG>.*?</VTG>\s*<RefSeg>.*?</RefSeg>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:think|select|answer)>")


def _grounded(block: ActionBlock, variant: Variant) -> bool:
    """JSON that holds the three keys (intended: strict, and as integers), and a mask."""
    if block.vtg is None or not block.has_seg:
        return False
    vtg = load_json(block.vtg, strict=variant == "intended")
    if not isinstance(vtg, dict) or not all(key in vtg for key in _KEYS):
        return False
    return variant == "released" or all(as_index(vtg[key], variant) is not None for key in _KEYS)


def _released_turn(text: str) -> bool:
    found = _TURN.search(text)
    return found is not None and _grounded(ActionBlock(Action(found["tag"]), found["body"]), "released")


def _exact_turn(text: str, action: Action) -> bool:
    """Think, then one ``action`` block, nothing around them and one ``[SEG]`` in all."""
    found = _TURN.fullmatch(text.strip().removesuffix(END_OF_TURN).strip())
    if found is None or found["tag"] != action.value or text.count(SEG_TOKEN) != 1:
        return False
    if _TAG.search(found["think"]) or _TAG.search(found["body"]) or not _BODY.fullmatch(found["body"]):
        return False
    return _grounded(ActionBlock(action, found["body"]), "intended")


@register_reward("strict_format")
def strict_format(x: RewardInput, variant: Variant) -> float:
    """+1 or -1.

    intended: every turn is exactly ``<think>…</think>`` and one action block with a strict-JSON VTG of three
    integers and a RefSeg, with one ``[SEG]`` in the turn; every turn but the last selects, the last answers.
    released: every turn holds such parts somewhere, the values unread, in any order of select and answer.
    """
    if not x.turns:
        return -1.0
    if variant == "released":
        good = all(_released_turn(text) for text in x.turns)
    else:
        actions = [Action.SELECT] * (len(x.turns) - 1) + [Action.ANSWER]
        good = all(_exact_turn(text, action) for text, action in zip(x.turns, actions, strict=True))
    return 1.0 if good else -1.0
