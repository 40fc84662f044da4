"""Expressions without a prediction: here each counts 0; what a benchmark's own tool does, and that on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.scorers.types import ExpressionScore
from rollout.errors import DataError

Rows = Sequence[ExpressionScore]


@dataclass(frozen=True)
class MissingRule:
    """What a tool does."""

    words: str
    """As in "its tool ...: it *leaves them out*"."""
    left_out: Callable[[Rows], set[str]]
    """Names of the expressions that do not weigh in the tool's means."""


def _unanswered(rows: Rows) -> set[str]:
    return {row.name for row in rows if row.missing or row.failed}


def _alone(rows: Rows) -> set[str]:
    """Those of clips of which something else was predicted."""
    answered = {row.clip for row in rows if not (row.missing or row.failed)}
    return {row.name for row in rows if (row.missing or row.failed) and row.clip in answered}


def _refuse(rows: Rows) -> set[str]:
    if missing := sorted(_unanswered(rows)):
        raise DataError(
            f"the benchmark's own tool refuses results that lack anything: {len(missing)} expressions have no "
            f"prediction ({', '.join(missing[:5])}); evaluate them, or score without --released, where each counts 0"
        )
    return set()


RULES = {
    "zero": MissingRule("counts 0 for them too", lambda rows: set()),
    "left_out": MissingRule("leaves them out of its means", _unanswered),
    "clip_zero": MissingRule("counts 0 for a whole clip, but leaves single expressions out of its means", _alone),
    "refused": MissingRule("refuses results that lack any", _refuse),
}
"""What a benchmark's stanza may name under ``missing``."""


def in_words(rule: str, released: bool) -> str:
    """One sentence for beneath a table; "" where the benchmark has no tool that is public."""
    if not rule:
        return ""
    here = "here likewise (--released)" if released and rule != "zero" else "here each counts 0"
    more = "" if released or rule == "zero" else "; --released scores as it does"
    return f"missing expressions: {here}; the benchmark's own tool {RULES[rule].words}{more}"
