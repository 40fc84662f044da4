"""MeViS, Ref-DAVIS17, Ref-SAV, ReasonVOS, GroundMoRe, ViCaS and your own clips: J and F."""

from __future__ import annotations

from eval.scorers.base import Scorer
from eval.scorers.registry import register_scorer


@register_scorer("jf")
class RegionAndBoundary(Scorer):
    """All annotations of an expression merged by OR; mean over frames, then over expressions.

    This is how the two papers score Ref-DAVIS17 too: each of its four sentences an object is an expression. The
    DAVIS challenge instead paints all objects of an annotator into one label image.
    GroundMoRe differs in its frames alone (20, from its stanza) and its truth, which the reader limits to the action.
    """
