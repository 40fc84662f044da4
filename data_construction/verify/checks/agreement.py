"""Is the trace about what the data set holds."""

from __future__ import annotations

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check


@register_check("agreement")
def agreement(case: Case) -> str | None:
    """expression, annotation ids and the RL annotation are those of the data set, and the question is asked"""
    expression, raw = case.sample.expression, case.trace.raw
    if case.trace.text != expression.text:
        return f"is about {case.trace.text!r}, the data set says {expression.text!r}"
    for where, holder in (("trace", raw), ("record", case.trace.record), ("RL annotation", raw.get("rl_annotation"))):
        if isinstance(holder, dict) and "anno_id" in holder:
            given = holder["anno_id"]
            if not isinstance(given, list) or tuple(map(str, given)) != expression.anno_ids:
                return f"{where}: annotation ids {given!r}, the data set says {list(expression.anno_ids)}"
    if not any(expression.text in value for who, value in case.trace.conversations if who == "human"):
        return "no human message holds the expression"
    annotation = raw.get("rl_annotation")
    if not isinstance(annotation, dict) or case.areas is None or "mask_existence" not in annotation:
        return None
    same = annotation["mask_existence"] == (case.areas > 0).astype(int).tolist()
    return None if same else f"mask_existence is not what the masks of {len(case.areas)} frames say"
