"""Are all frame indices inside the clip."""

from __future__ import annotations

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check


@register_check("indices")
def indices(case: Case) -> str | None:
    """every frame index is inside the clip, and no interval ends before it starts"""
    total = case.num_frames
    given = case.trace.record.get("frames") if not case.boxes else None
    if isinstance(given, list) and len(given) != total:
        return f"the record lists {len(given)} frames, the clip has {total}"
    for n, turn in enumerate([] if case.boxes else case.turns):
        if turn.grounding is not None:
            start, end, keyframe = turn.grounding.start, turn.grounding.end, turn.grounding.keyframe
            if not all(0 <= i < total for i in (start, end, keyframe)):
                return f"turn {n}: start {start}, end {end}, keyframe {keyframe} outside 0..{total - 1}"
            if end < start:
                return f"turn {n}: the interval ends at {end}, before its start {start}"
    outside = [i for i in case.trace.frames if not 0 <= i < total]
    if outside:
        return f"shows frame {outside[0]} outside 0..{total - 1}"
    if case.boxes and case.trace.keyframe not in case.trace.frames:
        return f"keyframe {case.trace.keyframe} is not among the frames shown"
    if case.boxes and case.box_turn.answer is not None:
        said, times = case.box_turn.answer.keyframe_timestamp, case.timestamps
        if len(set(times)) < len(times):
            return f"several frames are shown at the same second: {list(times)}"
        if said not in times:
            return f"timestamp {said} is not one of those shown: {list(times)}"
    return None
