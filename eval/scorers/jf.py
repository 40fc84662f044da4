"""MeViS, ReasonVOS, GroundMoRe and your own clips: J and F."""

from __future__ import annotations

from eval.scorers.base import Scorer
from eval.scorers.registry import register_scorer


@register_scorer("jf")
class RegionAndBoundary(Scorer):
    """All annotations of an expression merged by OR; mean over frames, then over expressions.

    GroundMoRe differs in its frames alone (20, from its stanza) and its truth, which the reader limits to the action;
    ReasonVOS in the frames that count, those with a mask file.
    """
