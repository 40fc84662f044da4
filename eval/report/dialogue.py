"""A turn's text in parts that a page can show apart. Nothing is parsed as markup: it all stays text."""

from __future__ import annotations

import re
from dataclasses import dataclass

_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)


@dataclass(frozen=True)
class TurnText:
    """``thinking`` is the first think block's inside, ``rest`` all the text around it."""

    thinking: str
    rest: str


def split_turn(text: str) -> TurnText:
    """Take the thinking trace out of a reply; a reply without a closed think block is all ``rest``."""
    match = _THINK.search(text)
    if match is None:
        return TurnText("", text.strip())
    return TurnText(match.group(1).strip(), (text[: match.start()] + text[match.end() :]).strip())
