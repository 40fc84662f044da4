"""Is the thinking neither empty nor endless."""

from __future__ import annotations

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check


@register_check("length")
def length(case: Case) -> str | None:
    """the thinking of every turn has as many words as the settings allow"""
    low, high = case.settings.min_words, case.settings.max_words
    for n, think in enumerate(case.thinking):
        words = len(think.split())
        if not low <= words <= high:
            return f"turn {n}: {words} words of thinking, wants {low} to {high}"
    return None
