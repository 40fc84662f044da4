"""Does the text give away what was drawn or told only to the writer."""

from __future__ import annotations

import re

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check

LEAKS = re.compile(
    r"\b(?:(?:red|green|blue|yellow|coloured|colored|drawn|marked)[ -](?:bounding[ -])?(?:box(?:es)?|rectangles?|"
    r"outlines?|contours?|borders?|overlays?)|bounding[ -]box(?:es)?|bbox(?:es)?|overlays?|overlaid|"
    r"highlight(?:ed|s|ing)?|annotat(?:ed|ions?)|ground[ -]truth|mask(?:s|ed)?|"
    r"(?:boxed|outlined|circled|marked|labell?ed)(?: in| with| by| as)|"
    r"(?:inside|within|in) the box(?:es)?|the boxes?\b(?= (?:shows?|marks?|indicates?|encloses?|surrounds?|around))|"
    r"(?:as )?(?:provided|given) (?:interval|keyframe|target|answer)|"
    r"(?:i was|as) (?:told|instructed)|the (?:hint|instruction)s?\b)",
    re.IGNORECASE,
)


@register_check("overlay_leak")
def overlay_leak(case: Case) -> str | None:
    """the thinking does not mention boxes, highlights, masks or hints, unless the expression itself does"""
    for n, think in enumerate(case.thinking):
        for found in LEAKS.finditer(think):
            if found.group().lower() not in case.sample.expression.text.lower():
                return f"turn {n}: '{found.group()}' was only in the writer's picture or instructions"
    return None
