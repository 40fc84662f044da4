"""Does the thinking speak of frames it has not seen."""

from __future__ import annotations

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check
from data_construction.verify.wording import mentions


@register_check("unshown_frames")
def unshown_frames(case: Case) -> str | None:
    """every frame that the thinking names was shown before; what to look at next only has to be in the clip"""
    for n, (think, seen) in enumerate(zip(case.thinking, case.seen, strict=False)):
        known = set(case.timestamps) | set(range(1, len(case.trace.frames) + 1)) if case.boxes else set(seen)
        chosen = None if case.boxes else case.turns[n].grounding
        if chosen is not None:
            known |= {chosen.start, chosen.end, chosen.keyframe}
        last = max(case.timestamps, default=0) if case.boxes else case.num_frames - 1
        for mention in mentions(think, seconds=case.boxes):
            for number in mention.numbers:
                if number > last:
                    return f"turn {n}: speaks of {number}, the clip ends at {last}: '{_short(mention.sentence)}'"
                if number not in known and not mention.action:
                    return f"turn {n}: speaks of {number}, which was not shown: '{_short(mention.sentence)}'"
    return None


def _short(sentence: str) -> str:
    return sentence if len(sentence) <= 90 else sentence[:89] + "…"
