"""``jf_davis.json``: J and F per frame, equal to the DAVIS tool's to the last bit."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.golden_checks.report import Case, Check


def compute(case: dict[str, Any]) -> dict[str, Any]:
    """Our J and F of one clip."""
    from rewards.metrics import jf_rles

    j, f = jf_rles(case["pred"], case["gt"])
    return {"J": j, "F": f}


def _cases(data: Any) -> list[Case]:
    from rewards.metrics import jf_rles  # noqa: F401 - says at once if the feature is missing

    return [Case(f"clip {i}", case["expected"], partial(compute, case)) for i, case in enumerate(data)]


CHECK = Check("jf_davis.json", 0.0, _cases)
