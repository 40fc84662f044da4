"""Does the answered interval hold the target."""

from __future__ import annotations

from data_construction.traces import MASKS
from data_construction.verify.case import Case
from data_construction.verify.registry import register_check


@register_check("interval", methods=(MASKS,))
def interval(case: Case) -> str | None:
    """enough of the answered interval's frames show a target (the precision of SPEC 2.5, both ends counted)"""
    answer = case.turns[-1].grounding if case.turns else None
    if case.areas is None or case.no_target or answer is None:
        return None
    inside = case.areas[max(answer.start, 0) : answer.end + 1] > 0
    if not len(inside):
        return f"{answer.start}..{answer.end} holds no frame of the clip"
    if inside.mean() < case.settings.interval_precision or not inside.any():
        return f"a target is visible in {int(inside.sum())} of the {len(inside)} frames {answer.start}..{answer.end}"
    return None
