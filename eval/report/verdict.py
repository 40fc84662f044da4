"""Which kinds of expression were learnt, said only when the figures say it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from eval.scorers.types import GroupScores, Mean, Scores

SILENCE = 99.5
"""From this J&F of predicting nothing on, silence *is* the right answer and cannot be beaten."""


class Verdict(StrEnum):
    """The value is what the page says."""

    LEARNT = "learnt"
    NOT_LEARNT = "not learnt"
    STAYS_SILENT = "stays silent"


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason in words."""

    verdict: Verdict
    reason: str


def judge(group: GroupScores, learnt_at: float) -> Judgement:
    """Learnt: J&F at least ``learnt_at`` *and* above predicting nothing by more than two standard errors.

    The margin is paired, expression by expression. Where the right answer is to predict nothing (no target), no margin
    can exist: there the verdict is that the model stays silent, which an untrained model may do as well.
    """
    jf, margin = group.metrics["jf"].mean, group.margin
    nothing = group.baselines["nothing"].mean if "nothing" in group.baselines else None
    if jf is None:
        return Judgement(Verdict.NOT_LEARNT, "no expression scored")
    if nothing is not None and nothing >= SILENCE:
        if jf >= learnt_at:
            return Judgement(Verdict.STAYS_SILENT, "predicting nothing is right here, so this alone shows no skill")
        return Judgement(Verdict.NOT_LEARNT, "predicts masks where there is no target")
    if margin.mean is None:
        return Judgement(Verdict.NOT_LEARNT, "not scored beside predicting nothing")
    if margin.mean <= 0:
        return Judgement(Verdict.NOT_LEARNT, f"{-margin.mean:.1f} below predicting nothing")
    if margin.se is None or margin.mean <= 2 * margin.se:
        spread = "one expression only" if margin.se is None else f"± {margin.se:.1f}, within two standard errors"
        return Judgement(Verdict.NOT_LEARNT, f"{margin.mean:.1f} above predicting nothing ({spread})")
    if jf < learnt_at:
        reason = f"{margin.mean:.1f} ± {margin.se:.1f} above predicting nothing, but under {learnt_at:g}"
        return Judgement(Verdict.NOT_LEARNT, reason)
    return Judgement(Verdict.LEARNT, f"{margin.mean:.1f} ± {margin.se:.1f} above predicting nothing")


def paired_change(before: Scores, after: Scores) -> Mean:
    """J&F after less before over the expressions that both scored, paired."""
    first = {row.name: row.jf for row in before.expressions}
    return Mean.of(row.jf - first[row.name] for row in after.expressions if row.name in first)


def change_in_words(change: Mean) -> str:
    """``+3.1 ± 1.2 (60 expressions, paired)`` and whether that is more than noise."""
    if change.mean is None:
        return "no expression in common"
    if change.se is None:
        return f"{change.mean:+.1f} (one expression)"
    beyond = abs(change.mean) > 2 * change.se
    meaning = "more than two standard errors" if beyond else "within two standard errors: no change shown"
    return f"{change.mean:+.1f} ± {change.se:.1f} over {change.n} expressions, paired; {meaning}"
