"""Did the writer answer at all."""

from __future__ import annotations

import re

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check

PHRASES = re.compile(
    r"\b(?:as an ai\b|as a language model|i(?:'m| am) (?:sorry|unable)|i (?:cannot|can't|can not) (?:see|view|access|"
    r"help|assist|identify|process)|no (?:images?|frames?|video) (?:was|were|is|are) (?:provided|attached|shown))",
    re.IGNORECASE,
)


@register_check("refusal")
def refusal(case: Case) -> str | None:
    """no apology, no refusal, no missing picture in the thinking"""
    for n, think in enumerate(case.thinking):
        if found := PHRASES.search(think):
            return f"turn {n}: '{found.group()}'"
    return None
