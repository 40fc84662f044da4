"""Does the thinking see the target where it is not, or miss it where it is."""

from __future__ import annotations

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check
from data_construction.verify.wording import content_words, mentions

PLAIN = 0.5
"""A target of at least this share of its largest shown area cannot be overlooked."""


@register_check("visibility_claims")
def visibility_claims(case: Case) -> str | None:
    """no sentence says that the target is visible in a frame without it, or absent where it is large"""
    if case.areas is None or case.no_target:
        return None
    words = content_words(case.sample.expression.text)
    for n, (think, seen) in enumerate(zip(case.thinking, case.seen, strict=False)):
        largest = max((int(case.areas[t]) for t in seen if 0 <= t < case.num_frames), default=0)
        frame_of = dict(zip(case.timestamps, case.trace.frames, strict=True)) if case.boxes else {t: t for t in seen}
        for mention in mentions(think, seconds=case.boxes):
            if mention.action or not mention.is_about(words):
                continue
            for number in mention.numbers:
                frame = frame_of.get(number)
                if frame is None or not 0 <= frame < case.num_frames:
                    continue
                if mention.claims_visible and not case.areas[frame]:
                    return f"turn {n}: no target in frame {number}, but '{mention.sentence[:90]}'"
                if mention.claims_absent and len(mention.numbers) == 1 and case.areas[frame] >= PLAIN * max(1, largest):
                    return f"turn {n}: the target is plain in frame {number}, but '{mention.sentence[:90]}'"
    return None
