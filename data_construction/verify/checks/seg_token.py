"""Is [SEG] where it has to be, and nowhere else."""

from __future__ import annotations

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check
from rollout.control_text import SEG_TOKEN


@register_check("seg_token")
def seg_token(case: Case) -> str | None:
    """every VideoSEG-O3 reply holds exactly one [SEG]; Veason-R1 replies none"""
    wanted = 0 if case.boxes else 1
    for n, reply in enumerate(case.trace.replies):
        found = reply.count(SEG_TOKEN)
        if found != wanted:
            return f"turn {n}: {found} {SEG_TOKEN}, wants {wanted}"
    return None
