"""Does the thinking name things that the clip does not hold."""

from __future__ import annotations

import re

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check

_COLOURS = (
    "red orange yellow green blue cyan purple violet magenta pink brown black white grey gray golden silver beige "
    "teal turquoise"
)
COLOURS = frozenset(_COLOURS.split())
_WORD = re.compile(r"[a-z]+")


@register_check("vocabulary")
def vocabulary(case: Case) -> str | None:
    """no object that the data set knows from other clips only; strict: no colour that the clip's texts do not know"""
    mode = case.settings.vocabulary
    if mode == "off":
        return None
    foreign = case.all_names - case.names if case.names else frozenset()
    allowed = {w for text in (*case.expressions, *case.names) for w in _WORD.findall(text.lower())}
    for n, think in enumerate(case.thinking):
        words = _WORD.findall(think.lower())
        text = f" {' '.join(words)} "
        for name in sorted(foreign):
            if f" {name} " in text and name not in case.sample.expression.text:
                return f"turn {n}: names a {name}, which the clip does not hold"
        unknown = [w for w in words if w in COLOURS and w not in allowed] if mode == "strict" else []
        if unknown:
            return f"turn {n}: says '{unknown[0]}', a colour that no expression of the clip mentions"
    return None
