"""The sentences of a trace: few words in fixed order, so that a word-level vocabulary of a hundred covers them."""

from __future__ import annotations

from collections.abc import Sequence

from data_construction.cot.tracks import Evidence, SceneObject
from rollout.types import Expression

LARGE, SMALL = 0.06, 0.025
"""Shares of the frame's pixels."""
MOVED = 0.06
"""Share of the frame's side between the first and the last shown position that counts as motion."""
TYPE_WORDS = {0: "referring", 1: "reasoning", 2: "referring"}


def name_of(objects: Sequence[SceneObject]) -> str:
    """``red circle`` or ``blue square and blue circle``; equal names once."""
    return " and ".join(dict.fromkeys(o.name for o in objects))


def be(objects: Sequence[SceneObject]) -> str:
    return "is" if len(objects) == 1 else "are"


def size_word(evidence: Evidence) -> str:
    """From the largest shown area of one object."""
    share = evidence.area(evidence.best()) / len(evidence.objects) / evidence.num_pixels
    return "large" if share > LARGE else "small" if share < SMALL else "medium"


def motion_words(evidence: Evidence) -> str:
    """Direction of one object between its first and last shown frame; several objects, or one frame, tell none."""
    if len(evidence.objects) != 1 or len(evidence.visible) < 2:
        return "motion unclear"
    centres = evidence.objects[0].centres
    dx, dy = centres[evidence.visible[-1]] - centres[evidence.visible[0]]
    if max(abs(dx), abs(dy)) < MOVED * evidence.num_pixels**0.5:
        return "still"
    if abs(dx) >= abs(dy):
        return "moving right" if dx > 0 else "moving left"
    return "moving down" if dy > 0 else "moving up"


def describe_scene(objects: Sequence[SceneObject], evidence: Evidence) -> str:
    """Every object seen so far, with its size, motion and shown span."""
    parts = []
    for obj in objects:
        one = Evidence((obj,), evidence.seen, evidence.num_pixels)
        if one.visible:
            span = f"{one.visible[0]} to {one.visible[-1]}"
            parts.append(f"{obj.name} {size_word(one)} {motion_words(one)} {span}")
    return f"{', '.join(parts)}. " if parts else ""


def query_word(expression: Expression) -> str:
    """What the query is about, as far as its text tells: that nothing matches is not in the text."""
    if expression.kind == "no_target":
        return "attribute"
    return expression.kind or TYPE_WORDS.get(-1 if expression.type_id is None else expression.type_id, "target")
