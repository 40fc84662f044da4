"""Does an expression or a thought hold text that is more than words."""

from __future__ import annotations

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check
from rollout.control_text import control_fault


@register_check("control_text")
def control_text(case: Case) -> str | None:
    """no placeholder, special token or protocol tag in the expression or within a thought"""
    return control_fault(case.trace.text, case.trace.replies)
