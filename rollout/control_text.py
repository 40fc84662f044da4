"""Text that a data set must not hold, because a chat, a trainer or the protocol would read more than words in it.

One rule for expressions and thoughts, asked wherever they come in: `videoseg data check`, ``verify`` and ``export``,
training and evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rollout.errors import DataError
from rollout.types import Sample

SEG_TOKEN = "[SEG]"
PROTOCOL_TAGS = ("think", "thinking", "select", "answer", "VTG", "RefSeg")
PLACEHOLDERS = ("image", "video", "audio")
"""What trainers count in a text, as many as there are pictures."""
ADDED_TOKENS = ("p", "vp")
"""Beside ``[SEG]``, what the release added to its tokenizer (SPEC 2.2)."""
_FOUND = re.compile(
    rf"{re.escape(SEG_TOKEN)}|<\|\S{{0,64}}?\|>|<\||</?(?:{'|'.join(ADDED_TOKENS)})>"
    rf"|(?i:</?\s*(?:{'|'.join((*PROTOCOL_TAGS, *PLACEHOLDERS))})\s*/?>)"
)


_THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)


def control_text(text: str) -> str | None:
    """The first piece of ``text`` that is more than words: ``[SEG]``, a placeholder such as ``<image>``, a special
    token such as ``<|im_end|>`` or a tag of the protocol; None if there is none."""
    found = _FOUND.search(text)
    return found.group(0) if found else None


def control_fault(expression: str, replies: Sequence[str] = ()) -> str | None:
    """What a recorded dialogue holds that it must not, in words: in its expression, or in the thought of a reply."""
    token = control_text(expression)
    if token is not None:
        return f"the expression {expression!r} contains the control text {token!r}"
    for n, reply in enumerate(replies):
        thought = _THOUGHT.match(reply)
        token = control_text(thought[1]) if thought else None
        if token is not None:
            return f"turn {n}: the thinking contains the control text {token!r}"
    return None


def query_of(sample: Sample) -> str:
    """The text of the sample's expression. Raises `DataError` if it holds control text, which corrupts a dialogue."""
    return dialogue_of(sample)


def dialogue_of(sample: Sample, replies: Sequence[str] = ()) -> str:
    """As `query_of`, with the thoughts of a recorded dialogue looked at too."""
    fault = control_fault(sample.expression.text, replies)
    if fault is not None:
        where = f"clip {sample.clip.name}, expression {sample.expression.id}"
        raise DataError(f"{where}: {fault}; edit the data set")
    return sample.expression.text
