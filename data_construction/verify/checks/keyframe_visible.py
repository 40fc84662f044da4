"""Is the target there at the keyframes."""

from __future__ import annotations

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check


@register_check("keyframe_visible")
def keyframe_visible(case: Case) -> str | None:
    """the target is visible at the keyframe of the answer; only the first choice may miss it, and is then mended"""
    if case.areas is None or case.no_target:
        return None
    if case.boxes:
        turn = case.box_turn.answer
        chosen = [case.trace.keyframe]
        if turn is not None and turn.keyframe_timestamp in case.timestamps:
            chosen.append(case.trace.frames[case.timestamps.index(turn.keyframe_timestamp)])
    else:
        chosen = [t.grounding.keyframe if t.grounding else None for t in case.turns]
    for n, frame in enumerate(chosen):
        recovers = not case.boxes and n == 0 and len(chosen) > 1
        if frame is not None and 0 <= frame < case.num_frames and not case.areas[frame] and not recovers:
            return f"no target in keyframe {frame}" + ("" if case.boxes else f" of turn {n}")
    return None
