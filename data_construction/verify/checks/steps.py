"""Is the thinking decoupled as the protocol asks (SPEC 2.1)."""

from __future__ import annotations

from data_construction.traces import MASKS
from data_construction.verify.case import Case
from data_construction.verify.registry import register_check

LABELS = ("step 1", "step 2", "step 3", "action")


@register_check("steps", methods=(MASKS,))
def steps(case: Case) -> str | None:
    """the thinking holds Step 1, Step 2, Step 3 and Action, once each and in this order"""
    for n, think in enumerate(case.thinking):
        text = think.lower()
        places = [text.find(f"{label}:") for label in LABELS]
        for label, place in zip(LABELS, places, strict=True):
            if place < 0:
                return f"turn {n}: no '{label.capitalize()}:' in the thinking"
            if label != "action" and text.count(f"{label}:") > 1:
                return f"turn {n}: '{label.capitalize()}:' twice in the thinking"
        if places != sorted(places):
            return f"turn {n}: the steps are out of order"
    return None
