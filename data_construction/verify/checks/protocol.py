"""Does it parse under the training protocol."""

from __future__ import annotations

from data_construction.traces.shown import shown_images
from data_construction.verify.case import Case
from data_construction.verify.registry import register_check
from rollout.types import Action


@register_check("protocol")
def protocol(case: Case) -> str | None:
    """roles take turns, every reply parses, the images add up, and the record says what the replies say"""
    roles = [who for who, _ in case.trace.conversations if who != "system"]
    if roles != ["human", "gpt"] * (len(roles) // 2) or not roles:
        return f"roles are {roles[:8]}; wants human and gpt in turn, gpt last"
    shown_images(case.trace, case.num_frames)
    return _boxes(case) if case.boxes else _turns(case)


def _turns(case: Case) -> str | None:
    for n, turn in enumerate(case.turns):
        wanted = Action.ANSWER if n == len(case.turns) - 1 else Action.SELECT
        if turn.problem is not None:
            return f"turn {n}: {turn.problem}"
        if turn.action is not wanted:
            return f"turn {n}: <{turn.action}> where the dialogue needs <{wanted}>"
    chosen, said = case.trace.chosen, tuple(turn.grounding for turn in case.turns)
    if chosen not in (said, said[:-1]):
        return f"cot_trace ({len(chosen)} entries) is not what the {len(said)} replies choose"
    return None


def _boxes(case: Case) -> str | None:
    if len(case.trace.replies) != 1:
        return f"{len(case.trace.replies)} replies; wants one"
    turn = case.box_turn
    if turn.problem is not None or turn.answer is None:
        return turn.problem
    recorded = case.trace.record.get("bbox_2d_list")
    if recorded is not None and [list(b) for b in turn.answer.boxes] != recorded:
        return "bbox_2d_list of the record is not what the reply says"
    return None
