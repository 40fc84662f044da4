"""Does the text give away what was drawn or told only to the writer."""

from __future__ import annotations

import re

from data_construction.verify.case import Case
from data_construction.verify.registry import register_check

_SHAPE = r"(?:box(?:es)?|rectangles?|squares?|frames?|outlines?|contours?|borders?|overlays?|lines?|marks?|markings?)"
_DRAWN = r"(?:box(?:es)?|rectangles?|outlines?|overlays?|markings?)"
_AROUND = r"(?:encloses?|enclosing|surrounds?|surrounding|marks?|marking|indicates?|indicating|around|outlines?)"
LEAKS = re.compile(
    # what it looks like
    rf"\b(?:(?:red|drawn|overlaid)[ -](?:bounding[ -])?{_SHAPE}|"
    rf"(?:green|blue|yellow|colou?red|marked)[ -](?:bounding[ -])?{_DRAWN}|"
    r"(?:framed|boxed|outlined|circled|encircled|enclosed|surrounded|marked) (?:in|with|by) (?:a |the |thin )*red\b|"
    # what it does
    rf"{_DRAWN} (?:that |which )?{_AROUND}|(?:inside|within|in) the (?:bounding )?(?:rectangles?|bbox(?:es)?)|"
    r"(?:boxed|outlined|circled|encircled|labell?ed)(?: in| with| by| as)|marked (?:with|by|as|in)|"
    r"marked (?:target|object|person|people|man|woman|animal|region|area|one|thing)s?|"
    r"bounding[ -]box(?:es)?|bbox(?:es)?|overlays?|overlaid|highlight(?:ed|s|ing)?|annotat(?:ed|ions?)|"
    # where masks and instructions come from
    r"ground[ -]truth|(?:the|its|this|target|object|segmentation|predicted|given)(?: target| object)? masks?|masked|"
    r"(?:as )?(?:provided|given) (?:interval|keyframe|target|answer)|"
    r"(?:i was|as) (?:told|instructed)|the (?:hint|instruction)s?)\b",
    re.IGNORECASE,
)
_WORN = re.compile(r"(?:the|its|this) masks?", re.IGNORECASE)
_WEARS = re.compile(r"\b(?:wear(?:s|ing)?|wore|puts? on|takes? off|face|behind|under|removes?)\b", re.IGNORECASE)


@register_check("overlay_leak")
def overlay_leak(case: Case) -> str | None:
    """the thinking does not mention drawn boxes, highlights, masks or hints, unless the clip's own texts do"""
    known = " | ".join((case.sample.expression.text, *case.expressions, *case.names)).lower()
    for n, think in enumerate(case.thinking):
        for found in LEAKS.finditer(think):
            if found.group().lower() not in known and not _is_worn(found, think):
                return f"turn {n}: '{found.group()}' was only in the writer's picture or instructions"
    return None


def _is_worn(found: re.Match[str], think: str) -> bool:
    """A mask on somebody's face."""
    if not _WORN.fullmatch(found.group()):
        return False
    start = max(think.rfind(mark, 0, found.start()) for mark in ".!?") + 1
    return bool(_WEARS.search(think[start : found.end()]))
